// Prints the gltf-validator report of every file given as one JSON array.
import { readFileSync } from "node:fs";
import validator from "gltf-validator";

const reports = [];
for (const path of process.argv.slice(2)) {
  const bytes = new Uint8Array(readFileSync(path));
  reports.push(await validator.validateBytes(bytes, { uri: path, maxIssues: 100 }));
}
console.log(JSON.stringify(reports));
