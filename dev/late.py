"""A relay on which everything that the server says comes late, for tests of what clients do on what they do not know yet.

Usage: late.py PORT SERVER_PORT SECONDS     Both ports are on the loopback; it runs until it is ended.
"""
import asyncio
import sys

port, server, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


async def at_once(reader, writer):
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()


async def late(reader, writer):
    parts = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def send():
        while True:
            due, part = await parts.get()
            await asyncio.sleep(due - loop.time())
            if not part:
                return writer.close()
            writer.write(part)
            await writer.drain()

    sending = asyncio.create_task(send())
    part = True
    while part:
        part = await reader.read(65536)
        parts.put_nowait((loop.time() + seconds, part))
    await sending


async def relay(reader, writer):
    try:
        there, back = await asyncio.open_connection("127.0.0.1", server)
        await asyncio.gather(at_once(reader, back), late(there, writer))
    except OSError:
        writer.close()


async def main():
    async with await asyncio.start_server(relay, "127.0.0.1", port) as listener:
        await listener.serve_forever()

asyncio.run(main())
