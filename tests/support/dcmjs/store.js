// A Storage SCU of dcmjs-dimse: node store.js PORT FILE... prints the status of each C-STORE, and how it ended.
'use strict';

const { Client, Transcoding, log, requests } = require('dcmjs-dimse');

async function main(port, files) {
  log.disableAll();
  await Transcoding.initializeAsync(); // it proposes Implicit VR first, and has to encode anew where that is accepted
  const client = new Client();
  for (const file of files) {
    const request = new requests.CStoreRequest(file);
    request.on('response', (response) => console.log(response.getStatus().toString(16).padStart(4, '0')));
    client.addRequest(request);
  }
  client.on('associationReleased', () => console.log('released'));
  client.on('networkError', (error) => {
    console.log(`error ${error.message}`);
    process.exitCode = 1;
  });
  client.send('127.0.0.1', port, 'TESTER', 'AINODE');
}

main(Number(process.argv[2]), process.argv.slice(3));
