// Publishes, consumes, requeues and touches with nsqjs against the node whose address is given.
// Ends with 0 and one line of counts when every message came, and with 1 and a reason otherwise.
'use strict'

const { Reader, Writer } = require('nsqjs')

const [host, port] = process.argv[2].split(':')
const address = `${host}:${port}`
const TOPIC = 'nsqjs'
const wanted = new Set(['deferred'])
for (let i = 0; i < 200; i++) wanted.add(`single ${i}`)
for (let b = 0; b < 20; b++) for (let i = 0; i < 10; i++) wanted.add(`batch ${b} ${i}`)
const attempts = new Map()
const finished = new Set()
let answers = 0

function end(code, text) {
  console.log(text)
  process.exit(code)
}

function answered(error) {
  if (error) end(1, `a publish failed: ${error}`)
  answers += 1
}

setTimeout(() => end(1, `${finished.size} of ${wanted.size} messages after 90 s`), 90000)

const writer = new Writer(host, Number(port), { heartbeatInterval: 1 })
writer.on('error', (error) => end(1, `the writer failed: ${error}`))
writer.on('ready', () => {
  for (let i = 0; i < 200; i++) writer.publish(TOPIC, `single ${i}`, answered)
  for (let b = 0; b < 20; b++) {
    writer.publish(TOPIC, Array.from({ length: 10 }, (_, i) => `batch ${b} ${i}`), answered)
  }
  writer.deferPublish(TOPIC, ['deferred'], 300, answered)
})

const reader = new Reader(TOPIC, 'test', {
  nsqdTCPAddresses: [address], maxInFlight: 50, heartbeatInterval: 1, maxBackoffDuration: 0,
})
reader.on('error', (error) => end(1, `the reader failed: ${error}`))
reader.on('message', (message) => {
  const body = message.body.toString()
  attempts.set(body, (attempts.get(body) || 0) + 1)
  if (!wanted.has(body)) end(1, `a message that nobody published: ${body}`)
  if (message.attempts !== attempts.get(body)) {
    end(1, `${body} came with attempts ${message.attempts} the ${attempts.get(body)}th time`)
  }
  message.touch()
  if (body.endsWith('0') && message.attempts === 1) {
    message.requeue(0, false)
    return
  }
  message.finish()
  finished.add(body)
  if (finished.size === wanted.size) setTimeout(check, 200)
})

function check() {
  const requeued = [...attempts.values()].filter((count) => count === 2).length
  const expected = [...wanted].filter((body) => body.endsWith('0')).length
  if (requeued !== expected) end(1, `${requeued} messages were requeued instead of ${expected}`)
  if (answers !== 221) end(1, `${answers} of 221 publishes were answered`)
  end(0, `nsqjs: ${finished.size} finished, ${requeued} requeued`)
}
reader.connect()
writer.connect()
