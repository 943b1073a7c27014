// The server of the original design (docs/origin.md): its handlers, the order of their steps, and calls in memory. The design does
// not describe the push and the ARI request, so they are written in the simplest fast way: connections are kept, and the access
// token is fetched once. The server checks no tokens or secrets, because the original does not.

import { createSign, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import express from 'express';
import { WebSocketServer } from 'ws';

const environment = process.env;
const RING_MS = Number(environment.RING_MS ?? 30_000);
const account = JSON.parse(readFileSync(environment.FCM_ACCOUNT_FILE));
const fcmTokens = new Map([['1001', 'token-of-1001']]);
const numbers = new Map([['+918047491899', '1001']]);
const callStates = new Map();
const callMetrics = { total_calls: 0, successful_calls: 0, background_launches: 0, average_ready_time: 0 };

const app = express();
app.use(express.json());
app.use(express.urlencoded({ extended: false }));
const server = http.createServer(app);
const clients = new WebSocketServer({ server, path: '/exotel-stream' });

app.post('/api/call-response', async (req, res) => {
  const { server_call_id, extension, action } = req.body;
  try {
    switch (action) {
      case 'accept':
      case 'accept_ready':
        await handleCallAcceptReady(server_call_id, extension);
        break;
      case 'decline':
      case 'hangup':
        callStates.delete(server_call_id);
        break;
    }
    res.json({ success: true });
  } catch (error) {
    console.error('Call response error:', error);
    res.status(500).json({ success: false, error: error.message });
  }
});

app.get('/exotel/webhook', async (req, res) => {
  try {
    const call = await initiateIncomingCall(req.query.CallFrom, numbers.get(req.query.CallTo));
    broadcast({ callSid: req.query.CallSid, status: 'ringing', from: req.query.CallFrom, to: req.query.CallTo });
    res.json({ success: true, call_id: call });
  } catch (error) {
    console.error('Webhook error:', error);
    res.status(500).json({ success: false, error: error.message });
  }
});

clients.on('connection', (socket) => {
  socket.on('message', async (text) => {
    const message = JSON.parse(text);
    if (message.type === 'ping') socket.send(JSON.stringify({ type: 'pong' }));
    if (message.type === 'call_response') {
      await handleCallAcceptReady(message.server_call_id, message.extension);
      socket.send(JSON.stringify({ type: 'call_response', success: true }));
    }
  });
});

function broadcast(data) {
  const text = JSON.stringify({ type: 'call_status_update', data: { ...data, timestamp: new Date().toISOString() } });
  for (const client of clients.clients) client.send(text);
}

async function initiateIncomingCall(callerNumber, targetExtension) {
  const callId = randomUUID();
  await sendPushNotification(targetExtension, {
    type: 'incoming_call', call_id: callId, server_call_id: callId, caller_name: callerNumber, caller_number: callerNumber,
  });
  callStates.set(callId, {
    status: 'waiting_for_mobile', caller: callerNumber, target: targetExtension, timestamp: Date.now(), timeout: Date.now() + RING_MS,
  });
  callMetrics.total_calls++;
  setTimeout(() => cancelCallIfNotAccepted(callId), RING_MS);
  return callId;
}

async function handleCallAcceptReady(serverCallId, extension) {
  const callState = callStates.get(serverCallId);
  if (!callState || callState.status !== 'waiting_for_mobile') throw new Error('Invalid call state');
  callStates.set(serverCallId, { ...callState, status: 'mobile_ready', mobile_ready_time: Date.now() });
  await ari('POST', '/channels', {
    endpoint: `PJSIP/${extension}`, extension: callState.caller, context: 'incoming-calls', priority: 1, timeout: 30,
    callerId: callState.caller, variables: { CALL_TYPE: 'mobile_ready', ORIGINAL_CALLER: callState.caller },
  });
  console.log(`Mobile ${extension} ready - bridging call from ${callState.caller}`);
  logCallMetrics(serverCallId, callState, Date.now());
}

async function cancelCallIfNotAccepted(callId) {
  const callState = callStates.get(callId);
  if (!callState) return;
  if (callState.status === 'waiting_for_mobile') {
    console.log(`Call ${callId} timed out - mobile never became ready`);
    await ari('DELETE', `/channels/${callId}?reason=busy`);
    callStates.delete(callId);
  }
}

function logCallMetrics(callId, callState, readyTime) {
  callMetrics.successful_calls++;
  if (readyTime - callState.timestamp > 5000) callMetrics.background_launches++;
  console.log(`Call metrics: ${JSON.stringify(callMetrics)}`);
}

async function ari(method, path, body) {
  const response = await fetch(`${environment.ARI_URL}${path}`, {
    method,
    headers: {
      authorization: `Basic ${Buffer.from('ringback:bench').toString('base64')}`, 'content-type': 'application/json',
    },
    body: body && JSON.stringify(body),
  });
  await response.arrayBuffer();
  if (!response.ok) throw new Error(`Asterisk answered ${response.status}`);
}

let access;
async function accessToken() {
  if (access && Date.now() < access.until) return access.token;
  const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: account.client_email, scope: 'https://www.googleapis.com/auth/firebase.messaging', aud: account.token_uri,
    iat: now, exp: now + 3600,
  };
  const unsigned = `${base64({ alg: 'RS256', typ: 'JWT' })}.${base64(claims)}`;
  const signature = createSign('RSA-SHA256').update(unsigned).sign(account.private_key).toString('base64url');
  const body = new URLSearchParams({
    grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: `${unsigned}.${signature}`,
  });
  const granted = await (await fetch(account.token_uri, { method: 'POST', body })).json();
  access = { token: granted.access_token, until: Date.now() + (granted.expires_in - 120) * 1000 };
  return access.token;
}

async function sendPushNotification(extension, callData) {
  const token = fcmTokens.get(extension);
  if (!token) {
    console.error(`No FCM token for extension ${extension}`);
    return false;
  }
  const message = {
    token, data: callData, android: { priority: 'high', ttl: '30s' },
    apns: {
      headers: { 'apns-priority': '10', 'apns-expiration': String(Math.floor(Date.now() / 1000) + 30) },
      payload: { aps: { 'content-available': 1 } },
    },
  };
  const response = await fetch(`${environment.FCM_BASE_URL}/v1/projects/${account.project_id}/messages:send`, {
    method: 'POST', headers: { authorization: `Bearer ${await accessToken()}`, 'content-type': 'application/json' },
    body: JSON.stringify({ message }),
  });
  await response.arrayBuffer();
  console.log(`Push notification sent to extension ${extension}`);
  return true;
}

server.listen(Number(environment.PORT ?? 5050), '127.0.0.1');
