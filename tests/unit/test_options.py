"""The options of a mount on their way from the command line to the worker."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from fusemount.options import MountOptions

NAMES = st.binary(min_size=1, max_size=20).map(os.fsdecode)


@given(
    st.builds(
        MountOptions,
        source=NAMES,
        mountpoint=NAMES,
        allow_other=st.booleans(),
        prefetch=st.booleans(),
        first_window_bytes=st.none() | st.integers(1, 1 << 50),
        memory_bytes=st.none() | st.integers(1, 1 << 50),
        attribute_timeout_s=st.floats(0, 86400),
        source_deadline_s=st.floats(0.1, 3600),
        config=st.lists(NAMES, max_size=3).map(tuple),
    )
)
def test_options_come_through_json_unchanged(options: MountOptions) -> None:
    read = MountOptions.from_json(json.loads(json.dumps(options.to_json())))
    assert read == options
    assert hash(read) == hash(options)
