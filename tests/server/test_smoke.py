async def test_set_and_get(client, key):
    await client.set(key, b"value")
    item = await client.get(key)
    assert item is not None
    assert item.value == b"value"
