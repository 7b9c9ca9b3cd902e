// One cell of the client matrix with nsqjs. See matrix/README for the arguments and what is to be shown.
'use strict'

const { Reader, Writer } = require('nsqjs')

const [tcp, http, topic, transport] = process.argv.slice(2)
const [host, port] = tcp.split(':')
const layers = new Set(transport.split('+'))
const wanted = new Set()
for (let i = 0; i < 50; i++) wanted.add(`single ${i}`).add(`batch ${i}`)
const attempts = new Map()
const finished = new Set()
let answers = 0
const options = {
  // It reads a certificate's authority from the process only: NODE_EXTRA_CA_CERTS.
  tls: layers.has('tls'), snappy: layers.has('snappy'), deflate: layers.has('deflate'), heartbeatInterval: 1,
}

function end(code, text) {
  console.log(text)
  process.exit(code)
}

function answered(error) {
  if (error) end(1, `a publish failed: ${error}`)
  answers += 1
}

setTimeout(() => end(1, `${finished.size} of 100 after 40 s`), 40000)
const writer = new Writer(host, Number(port), options)
writer.on('error', (error) => end(1, `the writer failed: ${error}`))
writer.on('ready', () => {
  for (let i = 0; i < 50; i++) writer.publish(topic, `single ${i}`, answered)
  writer.publish(topic, Array.from({ length: 50 }, (_, i) => `batch ${i}`), answered)
})
const where = layers.has('lookup') ? { lookupdHTTPAddresses: [http], lookupdPollInterval: 1 } : { nsqdTCPAddresses: [tcp] }
const reader = new Reader(topic, 'test', { maxInFlight: 20, maxBackoffDuration: 0, ...where, ...options })
reader.on('error', (error) => end(1, `the reader failed: ${error}`))
reader.on('message', (message) => {
  const body = message.body.toString()
  attempts.set(body, (attempts.get(body) || 0) + 1)
  if (body.endsWith('0') && attempts.get(body) === 1) {
    message.requeue(0, false)
    return
  }
  message.finish()
  finished.add(body)
  if (finished.size === wanted.size) setTimeout(check, 200)
})

function check() {
  const requeued = [...attempts.values()].filter((count) => count === 2).length
  if (requeued !== 10 || answers !== 51) end(1, `${requeued} requeued, ${answers} answers`)
  end(0, '100 finished, 10 requeued')
}
reader.connect()
writer.connect()
