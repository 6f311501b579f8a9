// The real Socket.IO client, driven line by line: emits what stdin says, and prints all that comes, each as JSON.
// socketio.mjs URL OPTIONS; a line is ["event", data] to emit, or "close".
import { createInterface } from 'node:readline';
import { io } from 'socket.io-client';

const say = (...what) => console.log(JSON.stringify(what));
const socket = io(process.argv[2], { reconnectionDelay: 20, reconnectionDelayMax: 100, ...JSON.parse(process.argv[3]) });

socket.on('connect', () => {
  const engine = socket.io.engine;
  say('connect', engine.transport.name);
  engine.on('upgrade', (transport) => say('upgrade', transport.name));
});
socket.on('connect_error', (error) => say('connect_error', error.message, error.data ?? null, socket.active));
socket.on('disconnect', (reason) => say('disconnect', reason, socket.active));
socket.onAny((event, ...data) => say(event, ...data));

createInterface({ input: process.stdin }).on('line', (line) => {
  const told = JSON.parse(line);
  if (told === 'close') socket.close();
  else socket.emit(...told, (...answer) => say('ack', ...answer));
});
