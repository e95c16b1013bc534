// request.json -> llama.cpp by node-llama-cpp -> answers.json: prompt ids, greedy tokens, log-probabilities
import fs from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [packages, at] = process.argv.slice(2);
const asked = JSON.parse(fs.readFileSync(`${at}/asked.json`, "utf8"));
const load = (name) => import(pathToFileURL(createRequire(`${packages}/`).resolve(name)).href);
const {getLlama} = await import(pathToFileURL(`${packages}/node_modules/node-llama-cpp/dist/index.js`).href);
const {Template} = await load("@huggingface/jinja");

const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: asked.threads});
const model = await llama.loadModel({modelPath: asked.file, gpuLayers: 0});
const context = await model.createContext({
    contextSize: asked.context, sequences: 1, flashAttention: false, threads: asked.threads,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32",
});
const sequence = context.getSequence();
const source = model.fileInfo.metadata.tokenizer.chat_template;
const bos = model.tokens.bos == null ? "" : model.detokenize([model.tokens.bos], true);
const eos = model.tokens.eos == null ? "" : model.detokenize([model.tokens.eos], true);
// probabilities as they are: nothing is cut off, and none is sharpened
const plain = {generateNext: {probabilities: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}}};

async function answer(prompt) {
    let text = prompt;
    if (typeof prompt !== "string") {
        const given = {messages: prompt, add_generation_prompt: true, bos_token: bos, eos_token: eos};
        text = new Template(source).render(given);
    }
    const begins = model.tokens.shouldPrependBosToken;
    if (begins && typeof prompt !== "string" && text.startsWith(bos)) text = text.slice(bos.length);
    const ids = [...(begins ? [model.tokens.bos] : []), ...model.tokenize(text, true)];
    await sequence.clearHistory();
    const tokens = [];
    const steps = [];
    let input = [...ids.slice(0, -1), [ids.at(-1), plain]];
    for (;;) {
        const output = await sequence.controlledEvaluate(input);
        const likeliest = [...output.at(-1).next.probabilities.entries()].slice(0, asked.logprobs);
        steps.push([likeliest.map(([id]) => id), likeliest.map(([, p]) => Math.log(p))]);
        const next = likeliest[0][0];
        if (model.isEogToken(next)) break;
        tokens.push(next);
        if (tokens.length === asked.max_tokens) break;
        input = [[next, plain]];
    }
    return {ids, tokens, text: model.detokenize(tokens, true), steps};
}

const answers = [];
for (const prompt of asked.prompts) answers.push(await answer(prompt));
fs.writeFileSync(`${at}/said.json`, JSON.stringify(answers));
process.exit(0);
