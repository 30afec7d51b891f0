// Builds the panel's front end: `node build.mjs FOLDER HASH`. Called by bundle.py, which makes the hash.
//
//   index.js and all it imports, xterm.js included -> FOLDER/panel.js, one ES module that asks nothing of the network
//   loader.js -> FOLDER/loader.js, what every widget carries; LICENSE of each bundled package -> FOLDER/LICENSES.txt

import { build, transform } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [folder, hash] = process.argv.slice(2);
const banner = `/* ipyelastic panel, built from ${hash} */`;

const built = await build({
  absWorkingDir: here,
  entryPoints: ["index.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2021",
  loader: { ".css": "text" },
  legalComments: "none", // whole licences travel in LICENSES.txt
  metafile: true,
  write: false,
});
const loader = await transform(readFileSync(join(here, "loader.js"), "utf8"), { minify: true, target: "es2021" });

const packages = new Set();
for (const input of Object.keys(built.metafile.inputs)) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
  if (found) packages.add(found[1]);
}
const licences = [...packages].sort().map((name) => {
  const at = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(at, "package.json"), "utf8"));
  return `${name} ${version} (${license})\n\n${readFileSync(join(at, "LICENSE"), "utf8").trim()}\n`;
});

mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "loader.js"), loader.code);
writeFileSync(join(folder, "LICENSES.txt"), `panel.js contains:\n\n${licences.join("\n\n")}`);
// Last: its first line says that all of them are of these sources.
writeFileSync(join(folder, "panel.js"), `${banner}\n${built.outputFiles[0].text}`);
