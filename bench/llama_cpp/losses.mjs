// Losses per token of a GGUF model in llama.cpp, with or without an adapter; one JSON line.
// npm i -E node-llama-cpp@3.21.1; node losses.mjs TOKENS.json MODEL.gguf [ADAPTER.gguf]
// TOKENS.json: token ids of one text. The result's `losses` start at the second token.
import fs from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

// Found in the folder where the command runs, not beside this file.
const found = createRequire(`${process.cwd()}/`).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(found));

const [, , tokensFile, modelPath, adapter] = process.argv;
const tokens = JSON.parse(fs.readFileSync(tokensFile, "utf8"));
const llama = await getLlama({gpu: false, build: "never"});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({
    contextSize: tokens.length + 8,
    lora: adapter ? {adapters: [{filePath: adapter}]} : undefined,
});
const sequence = context.getSequence();
const asked = tokens.map((token, i) =>
    i + 1 < tokens.length ? [token, {generateNext: {probabilities: true}}] : token);
const answers = await sequence.controlledEvaluate(asked);
const losses = tokens.slice(1).map((token, i) =>
    -Math.log(answers[i].next.probabilities.get(token)));
const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
console.log(JSON.stringify({mean, losses}));
await llama.dispose();
