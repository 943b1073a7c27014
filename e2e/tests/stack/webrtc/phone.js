// A WebRTC phone with an automatic answer. The test reads `window.phone` and calls its functions.

import JsSIP from "jssip";

const phone = {
  /** What the phone does: "off", "registered", "talking", "ended", or what went wrong. */
  state: "off",
  /** The INVITE's session description. */
  offer: "",
  session: null,
  speaker: new Audio(),

  /** Registers at a PBX, and from then on answers each call. */
  register(url, extension, password) {
    const agent = new JsSIP.UA({
      sockets: [new JsSIP.WebSocketInterface(url)],
      uri: `sip:${extension}@${new URL(url).hostname}`,
      password,
    });
    agent.on("registered", () => (phone.state = "registered"));
    agent.on("registrationFailed", ({ cause }) => (phone.state = `not registered: ${cause}`));
    agent.on("newRTCSession", ({ session, request }) => {
      phone.session = session;
      phone.offer = request.body;
      session.on("peerconnection", ({ peerconnection }) => {
        // The browser decodes what is played.
        peerconnection.addEventListener("track", ({ streams }) => {
          phone.speaker.srcObject = streams[0];
          phone.speaker.play();
        });
      });
      session.on("confirmed", () => (phone.state = "talking"));
      session.on("ended", () => (phone.state = "ended"));
      session.on("failed", ({ cause }) => (phone.state = `failed: ${cause}`));
      session.answer({
        mediaConstraints: { audio: true, video: false },
        pcConfig: { iceServers: [] },
      });
    });
    agent.start();
  },

  hangUp() {
    phone.session.terminate();
  },

  /** Packets each way, the audio that was decoded from them, and how they were protected. */
  async media() {
    const media = {};
    const reports = [...(await phone.session.connection.getStats()).values()];
    for (const report of reports) {
      if (report.type === "inbound-rtp") {
        media.received = report.packetsReceived;
        media.energy = report.totalAudioEnergy;
        media.codec = reports.find(({ id }) => id === report.codecId)?.mimeType;
      } else if (report.type === "outbound-rtp") {
        media.sent = report.packetsSent;
      } else if (report.type === "transport") {
        media.dtls = report.dtlsState;
        media.cipher = report.srtpCipher;
      }
    }
    return media;
  },
};

window.phone = phone;
