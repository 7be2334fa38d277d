# What pgAdmin's image sets; config.py in pgAdmin explains each.
SERVER_MODE = True
DATA_DIR = "/data"
LOG_FILE = "/dev/null"  # the container's log has the same
UPGRADE_CHECK_ENABLED = False
ENABLE_PSQL = False
