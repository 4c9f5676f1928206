// Registers an instance with the client of npm, tells what happens as lines, and
// follows orders on standard input: "list APP" and "stop".
'use strict';

const readline = require('readline');
const { createRequire } = require('module');

const [modules, server, user, password, app, id, port] = process.argv.slice(2);
const { Eureka } = createRequire(modules + '/')('eureka-js-client');
const quiet = () => {};
const tell = (...words) => console.log(words.join(' '));
const [host, eurekaPort] = server.split(':');

const client = new Eureka({
  logger: { debug: quiet, info: quiet, warn: quiet, error: quiet },
  cwd: __dirname,
  instance: {
    app,
    instanceId: id,
    hostName: '127.0.0.1',
    ipAddr: '127.0.0.1',
    port: { $: Number(port), '@enabled': true },
    vipAddress: app,
    dataCenterInfo: { '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo', name: 'MyOwn' },
    leaseInfo: { renewalIntervalInSecs: 1, durationInSecs: 30 },
  },
  eureka: {
    host,
    port: Number(eurekaPort),
    servicePath: '/eureka/apps/',
    heartbeatInterval: 300,
    registryFetchInterval: 300,
    filterUpInstances: false,
    maxRetries: 1,
    requestRetryDelay: 100,
  },
  requestMiddleware: (options, done) => {
    options.auth = { user, password };
    done(options);
  },
});

for (const event of ['started', 'registered', 'heartbeat', 'registryUpdated', 'deregistered']) {
  client.on(event, () => tell(event));
}
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [order, name] = line.split(' ');
  if (order === 'list') {
    const list = client.getInstancesByAppId(name).map((i) => `${i.instanceId}@${i.ipAddr}:${i.port.$}=${i.status}`);
    tell('list', list.join(','));
  } else if (order === 'stop') {
    client.stop((error) => process.exit(error ? 1 : 0));
  }
}).on('close', () => process.exit(1));
client.start((error) => { if (error) tell('error', error.message); });
