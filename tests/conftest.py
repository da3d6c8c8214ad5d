"""Before any test module: what jlogd sets in the environment must be there before gRPC is imported."""

import jlogd  # noqa: F401 - imported for what it sets
