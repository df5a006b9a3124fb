// Ids.java
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

public class Ids {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();
    private static final HttpRequest REQUEST =
        HttpRequest.newBuilder(URI.create("http://127.0.0.1:8080/v1/counters/orders/next"))
            .POST(HttpRequest.BodyPublishers.noBody())
            .timeout(Duration.ofSeconds(5))
            .build();

    /** Returns an id; tries again while the service says that this may help. */
    static long nextId(int tries) throws Exception {
        var response = CLIENT.send(REQUEST, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() == 200) {
            return Long.parseLong(response.body());
        }
        if (response.statusCode() == 503 && tries > 1) {
            Thread.sleep(1000);
            return nextId(tries - 1);
        }
        throw new IllegalStateException(response.statusCode() + ": " + response.body());
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println(nextId(3));
    }
}
