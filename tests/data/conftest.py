import pytest


@pytest.fixture(scope="session")
def object_storage():
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from tests.data.counted_storage import CountedStorage

    storage = CountedStorage()
    yield storage
    storage.close()
