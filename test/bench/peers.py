"""The peers of insitu serve: POST /inference as it was, on FastAPI and uvicorn, each done as well as we know how.

INSITU_PEER is "sql": each request asks run_inference_task of the inference database, over a pool of warm sessions.
INSITU_PEER is "onnx": ONNX Runtime in the process, with the decoding that the SQL function does and the same settings.
"""

import contextlib
import os
import pathlib

from insitu_runtime import boot

boot.tune()

from fastapi import FastAPI, UploadFile  # noqa: E402  (after tune, which sets the number of threads)

PROBE = pathlib.Path(os.environ["INSITU_PEER_PROBE"]).read_bytes()


class SQL:
    """One session a worker: what is predicted at the same time is the number of workers."""

    async def open(self):
        from psycopg_pool import AsyncConnectionPool

        async def configure(connection):
            await connection.set_autocommit(True)
            connection.prepare_threshold = 0

        self.pool = AsyncConnectionPool("application_name=bench-fastapi", min_size=1, max_size=1, configure=configure, open=False)
        await self.pool.open(wait=True)
        self.query = 'select "%s".run_inference_task(%%b)' % os.environ["INSITU_PEER_SCHEMA"]

    async def label(self, img):
        async with self.pool.connection() as connection:
            return (await (await connection.execute(self.query, [img], binary=True)).fetchone())[0]

    async def close(self):
        await self.pool.close()


class ONNX:
    """Predicts on the event loop: handing 1 ms of work to another thread would cost more than it gives."""

    async def open(self):
        import json

        from insitu_inference import picture

        from insitu_runtime import onnxmodel

        self.example = picture.example
        self.model = onnxmodel.Predictor(onnxmodel.open_model(pathlib.Path(os.environ["INSITU_PEER_MODEL"]).read_bytes()))
        manifest = json.loads(os.environ["INSITU_PEER_MANIFEST"])
        self.data = {"shape": self.model.shape, "dtype": self.model.dtype, "bytes": self.model.bytes, "range": manifest["input"]["range"]}
        self.classes = manifest["classes"]

    async def label(self, img):
        return self.classes[int(self.model.predict(self.example(img, self.data), 1)[0].argmax())]

    async def close(self):
        pass


peer = {"sql": SQL, "onnx": ONNX}[os.environ["INSITU_PEER"]]()


@contextlib.asynccontextmanager
async def lifespan(app):
    await peer.open()
    await peer.label(PROBE)
    yield
    await peer.close()


app = FastAPI(lifespan=lifespan)


@app.post("/inference")
async def inference(file: UploadFile) -> str:
    return await peer.label(await file.read())


@app.get("/readyz")
async def readyz():
    return "ready"
