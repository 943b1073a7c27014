// `exotel-webhook` and `call-response` in Node.js 20 with the AWS SDK. They send the same requests in the same order as the
// functions in Rust. The script is bundled and minified as `sam build` would do, and keeps its connections. Its runtime is a bare
// loop, which is faster than Lambda's own. It leaves out repeated calls, a second report of a call, several PBXs and checks of
// most fields, which makes it faster than a complete version.

import http from 'node:http';
import { createHash, createHmac, createSign, randomUUID, timingSafeEqual } from 'node:crypto';
import {
  DynamoDBClient, GetItemCommand, QueryCommand, TransactWriteItemsCommand, UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { CreateScheduleCommand, SchedulerClient } from '@aws-sdk/client-scheduler';
import { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';

const environment = process.env;
const TableName = environment.TABLE_NAME;
const RING_MS = Number(environment.RING_TIMEOUT_SECONDS) * 1000;

const dynamodb = new DynamoDBClient({});
const secrets = new SecretsManagerClient({});
const queue = new SQSClient({ md5: false });
const scheduler = new SchedulerClient({});

const fetched = new Map();
function secret(id) {
  if (!fetched.has(id)) {
    const asked = secrets.send(new GetSecretValueCommand({ SecretId: id }));
    fetched.set(id, asked.then((answer) => JSON.parse(answer.SecretString)));
  }
  return fetched.get(id);
}

const same = (left, right) => {
  const [a, b] = [left, right].map((text) => createHash('sha256').update(String(text)).digest());
  return timingSafeEqual(a, b);
};

const base64 = (value) => Buffer.from(value).toString('base64url');
const answer = (statusCode, body) => ({
  statusCode, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
});

let access;
async function accessToken(account) {
  if (access && Date.now() < access.until) return access.token;
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: account.client_email, scope: 'https://www.googleapis.com/auth/firebase.messaging', aud: account.token_uri,
    iat: now, exp: now + 3600,
  };
  const unsigned = `${base64(JSON.stringify({ alg: 'RS256', typ: 'JWT', kid: account.private_key_id }))}.${base64(JSON.stringify(claims))}`;
  const signature = createSign('RSA-SHA256').update(unsigned).sign(account.private_key).toString('base64url');
  const body = new URLSearchParams({
    grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: `${unsigned}.${signature}`,
  });
  const granted = await (await fetch(account.token_uri, { method: 'POST', body })).json();
  access = { token: granted.access_token, until: Date.now() + (granted.expires_in - 120) * 1000 };
  return access.token;
}

async function push(token, data, ttl) {
  const account = await secret(environment.FCM_SECRET_ARN);
  const bearer = await accessToken(account);
  const message = { token, data, android: { priority: 'high', ttl: `${ttl}s`, collapse_key: data.call_id } };
  const response = await fetch(`${environment.FCM_BASE_URL}/v1/projects/${account.project_id}/messages:send`, {
    method: 'POST', headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
    body: JSON.stringify({ message }),
  });
  await response.arrayBuffer();
  return response.ok;
}

async function arm(callId, at) {
  const body = JSON.stringify({ call_id: callId });
  const delay = Math.max(0, Math.ceil((at - Date.now()) / 1000));
  await Promise.all([
    queue.send(new SendMessageCommand({ QueueUrl: environment.TIMEOUT_QUEUE_URL, MessageBody: body, DelaySeconds: delay })),
    scheduler.send(new CreateScheduleCommand({
      Name: `${callId}-ring`, GroupName: environment.SCHEDULE_GROUP,
      ScheduleExpression: `at(${new Date(at + 20_000).toISOString().slice(0, 19)})`, ActionAfterCompletion: 'DELETE',
      FlexibleTimeWindow: { Mode: 'OFF' },
      Target: { Arn: environment.TIMEOUT_FUNCTION_ARN, RoleArn: environment.SCHEDULER_ROLE_ARN, Input: body },
    })),
  ]);
}

// Calls are stored under their id without its check field, the last eight digits.
const keyOf = (callId) => ({ pk: { S: `CALL#${callId.slice(0, -8)}` }, sk: { S: 'CALL' } });

// Each change of a call is one conditional write.
async function change(callId, condition, sets, values, event, names = {}) {
  const updated = await dynamodb.send(new UpdateItemCommand({
    TableName, Key: keyOf(callId),
    ConditionExpression: condition,
    UpdateExpression: `SET ${sets}, #history = list_append(#history, :line), #version = #version + :one`,
    ExpressionAttributeNames: { '#history': 'history', '#version': 'version', ...names },
    ExpressionAttributeValues: {
      ':one': { N: '1' }, ':line': { L: [{ M: { at: { N: String(Date.now()) }, event: { S: event } } }] }, ...values,
    },
    ReturnValues: 'ALL_NEW', ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
  }));
  return updated.Attributes;
}

async function webhook(event) {
  const query = new URLSearchParams(event.rawQueryString);
  const { webhook_secret: expected } = await secret(environment.WEBHOOK_SECRET_ARN);
  if (!same(query.get('secret'), expected)) return answer(401, { success: false });
  const [sid, caller, number] = ['CallSid', 'CallFrom', 'CallTo'].map((name) => query.get(name));
  const route = await dynamodb.send(new GetItemCommand({
    TableName, Key: { pk: { S: 'NUMBERS' }, sk: { S: number } },
  }));
  const extension = route.Item.extension.S;
  const now = Date.now();
  const callId = randomUUID();
  const ringsUntil = now + RING_MS;
  const expiresAt = { N: String(Math.ceil(ringsUntil / 1000) + 86_400) };
  const call = {
    ...keyOf(callId), call_id: { S: callId }, version: { N: '1' },
    status: { S: 'waiting_for_mobile' }, extension: { S: extension }, kind: { M: { from_trunk: { M: { number: { S: caller } } } } },
    call_type: { S: 'voice' }, created_at: { N: String(now) }, rings_until: { N: String(ringsUntil) }, call_sid: { S: sid },
    history: { L: [{ M: { at: { N: String(now) }, event: { S: 'call_reported' } } }] }, expires_at: expiresAt,
    effects_pending_since: { N: String(now) },
  };
  const meeting = {
    pk: { S: `CALLER#${caller}#FOR#${extension}` }, sk: { S: 'CORRELATION' }, call_id: { S: callId },
    until: { N: String(ringsUntil) }, expires_at: expiresAt,
  };
  const [, devices] = await Promise.all([
    dynamodb.send(new TransactWriteItemsCommand({ TransactItems: [
      { Put: { TableName, Item: call, ConditionExpression: 'attribute_not_exists(pk)' } },
      { Put: { TableName, Item: meeting, ConditionExpression: 'attribute_not_exists(pk) OR #until <= :now',
        ExpressionAttributeNames: { '#until': 'until' }, ExpressionAttributeValues: { ':now': { N: String(now) } } } },
    ] })),
    dynamodb.send(new QueryCommand({
      TableName, KeyConditionExpression: 'pk = :pk AND begins_with(sk, :device)',
      ExpressionAttributeValues: { ':pk': { S: `EXTENSION#${extension}` }, ':device': { S: 'DEVICE#' } },
    })),
  ]);
  const data = {
    type: 'incoming_call', call_id: callId, server_call_id: callId, caller_name: caller, caller_number: caller,
    call_type: 'voice', expires_at: String(ringsUntil), sent_at: String(Date.now()),
  };
  const ring = async () => {
    const pushed = devices.Items.map((device) => push(device.address?.M?.token?.S ?? device.token?.S ?? 'token', data, RING_MS / 1000));
    await Promise.all(pushed);
    const pushedTo = { M: { devices: { L: devices.Items.map((device) => device.device_id) }, at: { N: String(Date.now()) } } };
    await change(callId, 'attribute_exists(pk)', 'pushed = :pushed', { ':pushed': pushedTo }, 'push_sent');
  };
  await Promise.all([ring(), arm(callId, ringsUntil)]);
  const completed = await change(callId, 'effects_pending_since = :since', 'completed = :since', { ':since': { N: String(now) } }, 'effects_completed');
  console.log(JSON.stringify({ level: 'INFO', message: 'call', call_id: callId, status: completed.status.S }));
  return answer(200, { success: true, call_id: callId, status: completed.status.S });
}

async function callResponse(event) {
  const { jwt_secret: key } = await secret(environment.APP_SECRET_ARN);
  const [header, claims, signature] = event.headers.authorization.replace('Bearer ', '').split('.');
  const expected = createHmac('sha256', key).update(`${header}.${claims}`).digest('base64url');
  const body = JSON.parse(event.body);
  const bearer = JSON.parse(Buffer.from(claims, 'base64url'));
  if (!same(signature, expected) || bearer.exp < Date.now() / 1000 || bearer.extension !== body.extension) {
    return answer(401, { success: false });
  }
  const callId = body.server_call_id;
  const now = String(Date.now());
  const call = await change(
    callId,
    'attribute_exists(pk) AND #status = :waiting AND extension = :extension AND rings_until > :now',
    '#status = :ready, ready_at = :now, effects_pending_since = :now',
    { ':waiting': { S: 'waiting_for_mobile' }, ':ready': { S: 'mobile_ready' }, ':extension': { S: body.extension }, ':now': { N: now } },
    'accept_ready', { '#status': 'status' },
  );
  const bridge = async () => {
    const asterisk = await secret(environment.ASTERISK_SECRET_ARN);
    const caller = call.kind.M.from_trunk.M.number.S;
    const response = await fetch(`${environment.ARI_URL}/channels/ringback-${callId}`, {
      method: 'POST',
      headers: {
        authorization: `Basic ${Buffer.from(`${asterisk.ari_username}:${asterisk.ari_password}`).toString('base64')}`,
        'content-type': 'application/json',
      },
      body: JSON.stringify({
        endpoint: `PJSIP/${body.extension}`, context: 'incoming-calls', extension: caller, priority: 1, timeout: 30, callerId: caller,
        variables: { CALL_TYPE: 'mobile_ready', ORIGINAL_CALLER: caller, CALLER_CHANNEL: call.caller_leg?.S },
      }),
    });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`Asterisk answered ${response.status}`);
  };
  const timer = queue.send(new SendMessageCommand({
    QueueUrl: environment.TIMEOUT_QUEUE_URL, MessageBody: JSON.stringify({ call_id: callId }), DelaySeconds: 15,
  }));
  await Promise.all([bridge(), timer]);
  const completed = await change(callId, 'effects_pending_since = :now', 'completed = :now', { ':now': { N: now } }, 'effects_completed');
  console.log(JSON.stringify({ level: 'INFO', message: 'call', call_id: callId, status: completed.status.S }));
  return answer(200, { success: true, status: completed.status.S });
}

const handler = { 'exotel-webhook': webhook, 'call-response': callResponse }[environment.RINGBACK_FUNCTION];
const agent = new http.Agent({ keepAlive: true });
function ask(path, options = {}, body = undefined) {
  return new Promise((resolve, reject) => {
    const url = `http://${environment.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation/${path}`;
    const request = http.request(url, { agent, ...options }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve({ headers: response.headers, body: Buffer.concat(chunks) }));
    });
    request.on('error', reject);
    request.end(body);
  });
}

for (;;) {
  const next = await ask('next');
  const id = next.headers['lambda-runtime-aws-request-id'];
  let report;
  try {
    report = ['response', await handler(JSON.parse(next.body))];
  } catch (error) {
    report = ['error', { errorType: error.name, errorMessage: String(error.stack) }];
  }
  await ask(`${id}/${report[0]}`, { method: 'POST' }, JSON.stringify(report[1]));
}
