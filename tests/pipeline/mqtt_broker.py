"""An MQTT broker that says what a test wants."""

import asyncio

import mqtt5


class FakeBroker:
    """Answers CONNECT with `greeting`, then each packet with what `answers` says, and closes when told to."""

    def __init__(self, greeting, answers=lambda packet: b""):
        self.greeting, self.answers, self.packets = greeting, answers, []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        data = b""
        while more := await reader.read(65_536):
            data += more
            while True:
                try:
                    packet, size = mqtt5.read(memoryview(data))
                except IndexError:
                    break
                data = data[size:]
                self.packets.append(packet)
                first = isinstance(packet, mqtt5.ConnectPacket)
                writer.write(self.greeting if first else self.answers(packet))
        writer.close()
