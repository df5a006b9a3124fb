// RangeIds.java
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayDeque;
import java.util.HashSet;
import java.util.regex.Pattern;
import java.util.stream.LongStream;

public class RangeIds {
    private static final Pattern RANGE =
        Pattern.compile("\"first\":\"?(\\d+)\"?,\"step\":(\\d+),\"count\":(\\d+)");
    private static final HttpRequest REQUEST = HttpRequest.newBuilder(URI.create(
            "http://127.0.0.1:8080/v1/counters/orders/next?format=ranges&count=100"))
        .POST(HttpRequest.BodyPublishers.noBody()).build();
    private final HttpClient client = HttpClient.newHttpClient();
    private final ArrayDeque<Long> held = new ArrayDeque<>();
    private long until;

    synchronized long nextId() throws Exception {
        if (held.isEmpty() || System.nanoTime() - until > 0) {
            held.clear();
            until = System.nanoTime() + 10_000_000_000L;
            var response = client.send(REQUEST, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                throw new IllegalStateException(response.body());
            }
            RANGE.matcher(response.body()).results().forEach(range -> {
                long first = Long.parseLong(range.group(1)), step = Long.parseLong(range.group(2));
                LongStream.range(0, Long.parseLong(range.group(3)))
                    .forEach(index -> held.add(first + step * index));
            });
        }
        return held.remove();
    }

    public static void main(String[] arguments) throws Exception {
        var ids = new RangeIds();
        var seen = new HashSet<Long>();
        for (int index = 0; index < 250; index++) {
            seen.add(ids.nextId());
        }
        System.out.println("Java: " + seen.size() + " different ids of 250");
    }
}
