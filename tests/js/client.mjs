/** A client in Node: commands come as lines of JSON on the standard input, what it says goes out as such. */
import {createInterface} from "node:readline";
import WebSocket from "ws";
import * as module from "../../marketfeed/client/js/marketfeed.js";
import {drive} from "./driver.mjs";

const [url, options] = process.argv.slice(2);
const obey = drive(module, url, {WebSocket, ...JSON.parse(options)}, (events) => {
  process.stdout.write(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
});
createInterface({input: process.stdin}).on("line", (line) => obey(JSON.parse(line)));
