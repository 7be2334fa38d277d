import json

import pytest

from session import LEARNER, SPEC, bundle_of, host_of


@pytest.fixture
def host():
    return host_of(bundle_of(learner=LEARNER))


@pytest.fixture
def spec():
    return json.loads(json.dumps(SPEC))
