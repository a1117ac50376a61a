import java.io.FileInputStream;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * A caller in Java, with nothing but its library: java Client.java API SERVICE PEER PORT, in a folder with ca.crt, the
 * token, and store.p12 with tls.csr as keytool makes them. It asks for a certificate, renews it by presenting it, and
 * presents it to the peer.
 */
public class Client {
    static final char[] PASSWORD = "changeit".toCharArray();

    public static void main(String[] args) throws Exception {
        String api = args[0], service = args[1], peer = args[2];
        int port = Integer.parseInt(args[3]);
        String csr = Files.readString(Path.of("tls.csr")).replace("\r", "").replace("\n", "\\n");
        String chain = ask(context(null), api + "/v1/certificates", Files.readString(Path.of("token")).trim(),
            "{\"service\": \"" + service + "\", \"csr\": \"" + csr + "\"}");
        SSLContext mine = context(chain);
        String serial = new java.math.BigInteger(certificates(chain)[0].getSerialNumber().toString()).toString(16);
        ask(mine, api + "/v1/certificates/" + serial + "/renew", null, "");
        System.out.println(greet(mine, peer, port));
    }

    /** Trusts ca.crt alone, and presents the chain with the key of store.p12 where there is one. */
    static SSLContext context(String chain) throws Exception {
        KeyStore trust = KeyStore.getInstance(KeyStore.getDefaultType());
        trust.load(null, null);
        int i = 0;
        for (Certificate root : certificates(Files.readString(Path.of("ca.crt")))) {
            trust.setCertificateEntry("root" + i++, root);
        }
        TrustManagerFactory trusts = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trusts.init(trust);
        KeyManagerFactory keys = null;
        if (chain != null) {
            KeyStore store = KeyStore.getInstance("PKCS12");
            try (FileInputStream in = new FileInputStream("store.p12")) {
                store.load(in, PASSWORD);
            }
            PrivateKey key = (PrivateKey) store.getKey("key", PASSWORD);
            store.setKeyEntry("key", key, PASSWORD, certificates(chain));
            keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            keys.init(store, PASSWORD);
        }
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys == null ? null : keys.getKeyManagers(), trusts.getTrustManagers(), null);
        return context;
    }

    static java.security.cert.X509Certificate[] certificates(String pem) throws Exception {
        return CertificateFactory.getInstance("X.509")
            .generateCertificates(new java.io.ByteArrayInputStream(pem.getBytes(StandardCharsets.US_ASCII)))
            .toArray(java.security.cert.X509Certificate[]::new);
    }

    static String ask(SSLContext context, String address, String token, String body) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(address))
            .header("Accept", "application/pem-certificate-chain").POST(HttpRequest.BodyPublishers.ofString(body));
        if (!body.isEmpty()) {
            request.header("Content-Type", "application/json");
        }
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        HttpResponse<String> answer = HttpClient.newBuilder().sslContext(context).build()
            .send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 201) {
            throw new IllegalStateException(answer.statusCode() + " " + answer.body());
        }
        return answer.body();
    }

    /** Says who the peer sees, by one request of HTTP/1.0. */
    static String greet(SSLContext context, String peer, int port) throws Exception {
        try (Socket plain = new Socket("127.0.0.1", port);
             SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(plain, peer, port, true)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            socket.getOutputStream().write(("GET / HTTP/1.0\r\nHost: " + peer + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII));
            String answer = new String(socket.getInputStream().readAllBytes(), StandardCharsets.US_ASCII);
            return answer.substring(answer.indexOf("\r\n\r\n") + 4).trim();
        }
    }
}
