// What docs/transports.md says of going on after a cut.
import { io } from 'socket.io-client';

const socket = io(process.argv[2], { reconnectionDelay: 20, reconnectionDelayMax: 100, ...JSON.parse(process.argv[3]) });
let epoch, seq;

socket.on('connect', () => {
  const since = seq === undefined ? {} : { since: { epoch, seq } };
  socket.emit('subscribe', { quotes: ['*'], trades: ['*'], ...since }, (answer) => {
    if (seq !== undefined) console.log(JSON.stringify(['resumed', answer]));
    ({ epoch } = answer);
    seq ??= answer.seq;
  });
});
socket.on('ticks', (ticks) => {
  seq = ticks.at(-1).seq;
  console.log(JSON.stringify(['ticks', ticks]));
});
