import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;

/** Posts its standard input to an address, three times, with the JDK's client as it comes: it asks for HTTP/2. */
class Embed {
    public static void main(String[] arguments) throws Exception {
        String body = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
            .header("content-type", "application/json")
            .header("authorization", "Bearer " + arguments[1])
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        for (int turn = 0; turn < 3; turn++) {
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
