// Calls every operation of a service by the client that OpenAPI Generator made.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.Map;
import java.util.stream.Collectors;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.CountersApi;
import org.openapitools.client.api.IdsApi;
import org.openapitools.client.api.KeysApi;
import org.openapitools.client.api.ServiceApi;
import org.openapitools.client.api.TalliesApi;
import org.openapitools.client.api.UsageApi;
import org.openapitools.client.model.*;

public class Calls {
  public static void main(String[] arguments) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(arguments[0]);
    ServiceApi service = new ServiceApi(client);
    CountersApi counters = new CountersApi(client);
    IdsApi ids = new IdsApi(client);

    say("livez", service.livez());
    say("readyz", service.readyz());
    say("metrics", service.metrics().contains("idservice_"));
    say("statusPage", service.statusPageWithHttpInfo(null, null, null).getStatusCode());
    say("docs", service.docsWithHttpInfo().getStatusCode());
    say("openapi", ((Map<?, ?>) service.openapi()).get("openapi"));

    CounterConfiguration wish = new CounterConfiguration().start(new WantedNumber(1000L));
    CounterAnswer counter = counters.createCounter("orders", wish);
    say("createCounter", number(counter.getStart()), number(counter.getLimit()));
    say("getNextOfCounter", number(ids.getNextOfCounter("orders", null, "json", null).getId()));
    Ids batch = ids.getNextOfCounter("orders", 3L, "json", null);
    say("getNextOfCounter", batch.getIds().stream().map(Calls::number).toArray());
    Ids ranges = ids.postNextOfCounter("orders", 5L, "ranges", "n");
    for (IdRange each : ranges.getRanges()) {
      say("postNextOfCounter", number(each.getFirst()), each.getStep(), each.getCount(), ranges.getNonce());
    }
    CounterList page = counters.listCounters(1L, null);
    say("listCounters", names(page), page.getNext());
    say("listCounters", names(counters.listCounters(null, page.getNext())));
    counter = counters.showCounter("orders");
    say("showCounter", counter.getState(), counter.getNext().getLong() > 1008, counter.getGaps().size());
    say("status", service.status(null, null, null).getInUse());

    Patch suspended = new Patch().state(Patch.StateEnum.SUSPENDED).reason("a test");
    say("patchCounter", counters.patchCounter("orders", suspended).getState());
    try {
      ids.getNextOfCounter("orders", null, "json", null);
      throw new AssertionError("a suspended counter gave an id");
    } catch (ApiException refused) {
      JsonNode problem = new ObjectMapper().readTree(refused.getResponseBody());
      Problem.CodeEnum code = Problem.CodeEnum.fromValue(problem.get("code").asText());
      say("refused", refused.getCode(), code, problem.get("retryable"));
    }
    Patch resumed = new Patch().state(Patch.StateEnum.ACTIVE);
    say("patchCounter", counters.patchCounter("orders", resumed).getState());
    SetTo set = new SetTo().next(new WantedNumber(5000L));
    say("setCounter", counters.setCounter("orders", set).getState());
    say("showCounter", counters.showCounter("orders").getNext().getLong() >= 5000);
    say("deleteCounter", counters.deleteCounter("orders", new Deletion()).getState());

    wish = new CounterConfiguration().limit(new WantedNumber("9007199254740993")).strict(true);
    say("createCounter", number(counters.createCounter("big", wish).getLimit()));
    say("getNext", number(ids.getNext(null, "json", null).getId()));
    say("postNext", number(ids.postNext(null, "json", null).getId()));
    callTallies(new TalliesApi(client));
    callKeys(client, arguments[0]);
    UsageAnswer used = new UsageApi(client).reportUsage(null, null, "acme.*", null);
    say("reportUsage", used.getScope(), number(used.getTotals().getIds()));
  }

  static void callTallies(TalliesApi tallies) throws Exception {
    TallyAnswer tally =
        tallies.createTally("donations", new TallyConfiguration().decimals(2L).floor("0"));
    say("createTally", tally.getSum(), tally.getFloor());
    AddRequest gift = new AddRequest().amount("12.50");
    for (int n = 0; n < 2; n++) {
      AddAnswer told = tallies.addToTally("donations", "don-1", gift);
      say("addToTally", told.getAmount(), told.getSum(), told.getReplayed());
    }
    try {
      tallies.addToTally("donations", "don-2", new AddRequest().amount("-100"));
      throw new AssertionError("an add went below the floor");
    } catch (ApiException refused) {
      JsonNode problem = new ObjectMapper().readTree(refused.getResponseBody());
      Problem.CodeEnum code = Problem.CodeEnum.fromValue(problem.get("code").asText());
      say("refused", refused.getCode(), code, problem.get("sum").asText());
    }
    RecordAnswer record = tallies.showAdd("donations", "don-1");
    say("showAdd", record.getKind(), record.getAmount());
    say("showSum", tallies.showSum("donations").getSum());
    SetSumAnswer set = tallies.setSum("donations", "year", new SetSumRequest().sum("0"));
    say("setSum", set.getBefore(), set.getSum());
    TallyPatchRequest suspended =
        new TallyPatchRequest().state(TallyPatchRequest.StateEnum.SUSPENDED);
    tally = tallies.patchTally("donations", suspended);
    say("patchTally", tally.getState(), tally.getFloor());
    say("listTallies", tallies.listTallies(null, null).getTallies().get(0).getTally());
    say("deleteTally", tallies.deleteTally("donations", new TallyDeletion()).getState());
  }

  static void callKeys(ApiClient client, String url) throws Exception {
    KeysApi keys = new KeysApi(client);
    KeyRequest wanted =
        new KeyRequest().role(KeyRequest.RoleEnum.USE).addScopesItem("acme.*").note("checkout");
    NewKey key = keys.createKey(wanted);
    boolean whole = key.getKey().startsWith("idk_use_" + key.getId());
    say("createKey", key.getRole(), key.getScopes().get(0), whole);
    ApiClient keyed = new ApiClient();
    keyed.updateBaseUri(url);
    keyed.setRequestInterceptor(ask -> ask.header("Authorization", "Bearer " + key.getKey()));
    say("keyed", refusal(new IdsApi(keyed), "acme.orders"));
    say("refused", refusal(new IdsApi(keyed), "globex.orders"));
    KeyAnswer listed = keys.listKeys().getKeys().get(0);
    say("listKeys", listed.getState(), listed.getNote());
    KeyAnswer revoked = keys.revokeKey(key.getId(), new Revocation().reason("replaced"));
    say("revokeKey", revoked.getState(), revoked.getReason());
  }

  static String refusal(IdsApi ids, String counter) throws Exception {
    try {
      ids.getNextOfCounter(counter, null, "json", null);
      throw new AssertionError("it gave an id");
    } catch (ApiException refused) {
      JsonNode problem = new ObjectMapper().readTree(refused.getResponseBody());
      return refused.getCode() + " " + problem.get("code").asText();
    }
  }

  static Object number(IdNumber id) {
    return id.getActualInstance();
  }

  static String names(CounterList page) {
    return page.getCounters().stream().map(CounterAnswer::getCounter).collect(Collectors.joining(" "));
  }

  static void say(String call, Object... values) {
    StringBuilder line = new StringBuilder(call);
    for (Object value : values) {
      line.append(' ').append(value);
    }
    System.out.println(line);
  }
}
