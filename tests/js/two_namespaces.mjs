// Two namespaces over one connection of Socket.IO: the first ticks of each.
import { io } from 'socket.io-client';

let told = false;
const seen = { '/': [], '/sim': [] };
for (const [name, ticks] of Object.entries(seen)) {
  const socket = io(process.argv[2] + name, { transports: ['websocket'] });
  socket.on('connect', () => socket.emit('subscribe', { quotes: ['*'], trades: ['*'], since: { seq: 0 } }));
  socket.on('ticks', (more) => {
    ticks.push(...more);
    if (!told && Object.values(seen).every((all) => all.length > 2000)) {
      told = true;
      console.log(JSON.stringify(['seen', seen['/'], seen['/sim']]));
    }
  });
}
