"""Before any test module: what jlogd sets in the environment must be there before gRPC is imported."""

from hypothesis import Phase, settings

import jlogd  # noqa: F401 - imported for what it sets

# Before Python 3.12 the explain phase traces every line: a failure would end as a timeout, without its steps.
settings.register_profile("jlogd", phases=[phase for phase in settings().phases if phase is not Phase.explain])
settings.load_profile("jlogd")
