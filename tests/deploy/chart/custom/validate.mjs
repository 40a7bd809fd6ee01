// Custom resources, as a JSON list on stdin, against the schemas of those who define them: a list of what is wrong.
// They say which values a field takes; a field that they do not know passes.
import { readFileSync } from "node:fs";

const packages = Object.keys(JSON.parse(readFileSync("package.json", "utf8")).dependencies);
const absent = ["ERR_MODULE_NOT_FOUND", "ERR_PACKAGE_PATH_NOT_EXPORTED"];

async function modelOf({ apiVersion, kind }) {
  for (const name of packages) {
    try {
      const found = (await import(`${name}/${apiVersion}`))[kind];
      if (found) return found;
    } catch (error) {
      if (!absent.includes(error.code)) throw error;
    }
  }
}

const wrong = [];
for (const one of JSON.parse(readFileSync(0, "utf8"))) {
  const Model = await modelOf(one);
  try {
    if (Model) new Model(one).validate();
    else wrong.push(`${one.kind}: there is no schema of it`);
  } catch (error) {
    wrong.push(`${one.kind}/${one.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify(wrong));
