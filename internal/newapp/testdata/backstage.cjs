// Does what Backstage does with a software template, with Backstage's own packages: checks entities and the template against
// their schemas, checks a filled form, and runs the steps fetch:template. Reads a JSON object, prints what is wrong.
const fs = require("fs");
const path = require("path");
const Ajv = require("ajv");
const nunjucks = require("nunjucks");
const nunjitsu = require("nunjitsu");
const model = require("@backstage/catalog-model");
const { templateEntityV1beta3Validator } = require("@backstage/plugin-scaffolder-common");

const input = JSON.parse(fs.readFileSync(0, "utf8"));
const problems = [];
const problem = (...words) => problems.push(words.join(": "));

const policy = model.EntityPolicies.allOf([
  new model.SchemaValidEntityPolicy(),
  new model.DefaultNamespaceEntityPolicy(),
  new model.NoForeignRootFieldsEntityPolicy(),
  new model.FieldFormatEntityPolicy(),
]);
const kinds = {
  Component: model.componentEntityV1alpha1Validator,
  API: model.apiEntityV1alpha1Validator,
  Resource: model.resourceEntityV1alpha1Validator,
  Template: templateEntityV1beta3Validator,
};

async function check(entity) {
  const name = entity.kind + " " + entity.metadata.name;
  try {
    await policy.enforce(entity);
    if (!(await kinds[entity.kind].check(entity))) problem(name, "not of this kind and version");
  } catch (error) {
    problem(name, error.message);
  }
}

// A form takes what its page's schema takes.
function form(page) {
  return new Ajv({ strict: false }).compile({ type: "object", properties: page.properties, required: page.required });
}

// What the filter of that name makes of host?owner=...&repo=...
function parseRepoUrl(text) {
  const url = new URL("https://" + text);
  return { host: url.host, owner: url.searchParams.get("owner"), repo: url.searchParams.get("repo") };
}

// The renderer of newer versions of Backstage, and that of older ones.
const modern = nunjitsu.createTemplateRenderer({ filters: { parseRepoUrl } });
const classic = new nunjucks.Environment(null, { autoescape: false, tags: { variableStart: "${{", variableEnd: "}}" } });
classic.addFilter("parseRepoUrl", parseRepoUrl);
const renderers = { nunjitsu: (text, context) => modern.render(text, context), nunjucks: (text, context) => classic.renderString(text, context) };

function fetchTemplate(render, step, parameters, out) {
  const url = render(step.input.url, { parameters });
  const values = Object.fromEntries(Object.entries(step.input.values).map(([name, text]) => [name, render(text, { parameters })]));
  const root = path.join(input.dir, url);
  for (const entry of fs.readdirSync(root, { withFileTypes: true, recursive: true })) {
    if (entry.isDirectory()) continue;
    const content = fs.readFileSync(path.join(root, entry.name));
    const isBinary = content.includes(0);
    fs.writeFileSync(path.join(out, render(entry.name, { values })), isBinary ? content : render(content.toString(), { values }));
  }
}

(async () => {
  for (const entity of [input.template, ...input.entities]) await check(entity);
  const pages = input.template.spec.parameters.map(form);
  const takes = (parameters) => pages.every((page) => page(parameters));
  for (const { parameters, out } of input.cases) {
    if (!takes(parameters)) problem("the form refuses", JSON.stringify(parameters));
    for (const [name, render] of Object.entries(renderers)) {
      const folder = path.join(out, name);
      fs.mkdirSync(folder, { recursive: true });
      for (const step of input.template.spec.steps) {
        if (step.action === "fetch:template") fetchTemplate(render, step, parameters, folder);
      }
    }
  }
  for (const parameters of input.refused) {
    if (takes(parameters)) problem("the form takes", JSON.stringify(parameters));
  }
  console.log(problems.join("\n"));
})();
