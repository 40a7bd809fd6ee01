// Bundles the pages into the folder named by the argument. What is loaded by name from elsewhere bears its hash.
import { copyFile, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = process.argv[2] ?? join(here, "dist");

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.tsx", "src/theme.ts", "src/style.css"],
  outdir: join(out, "assets"),
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022", "safari15", "chrome100", "firefox100"],
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});

let page = await readFile(join(here, "src/index.html"), "utf8");
for (const [file, { entryPoint }] of Object.entries(metafile.outputs)) {
  page = page.replaceAll(basename(entryPoint), relative(out, join(here, file)));
}
await mkdir(out, { recursive: true });
await writeFile(join(out, "index.html"), page);
for (const name of await readdir(join(here, "static"))) {
  await copyFile(join(here, "static", name), join(out, name));
}
