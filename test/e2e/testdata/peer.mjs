// A caller in Node, with nothing but its library: node peer.mjs API SERVICE, in a folder with ca.crt, the token, tls.key
// and tls.csr. It asks for a certificate, renews it by presenting it, and serves with it to whoever presents one of the
// same CA: it prints its port, and answers each with the name that it sees.
import { readFileSync } from "node:fs";
import https from "node:https";

const [api, service] = process.argv.slice(2);
const ca = readFileSync("ca.crt");
const key = readFileSync("tls.key");

function ask(path, options, body) {
  return new Promise((resolve, reject) => {
    const headers = { Accept: "application/json", ...options.headers };
    if (body) headers["Content-Type"] = "application/json";
    const request = https.request(api + path, { method: "POST", ca, ...options, headers }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part));
      answer.on("end", () => (answer.statusCode === 201 ? resolve(JSON.parse(text)) : reject(new Error(text))));
    });
    request.on("error", reject);
    request.end(body);
  });
}

const token = readFileSync("token", "utf8").trim();
const csr = readFileSync("tls.csr", "utf8");
const issued = await ask("/v1/certificates", { headers: { Authorization: `Bearer ${token}` } }, JSON.stringify({ service, csr }));
const renewed = await ask(`/v1/certificates/${issued.serial}/renew`, { key, cert: issued.chain });
const server = https.createServer({ ca: renewed.ca, key, cert: renewed.chain, requestCert: true, rejectUnauthorized: true }, (request, answer) => {
  answer.end(request.socket.getPeerCertificate().subject.CN + "\n");
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
