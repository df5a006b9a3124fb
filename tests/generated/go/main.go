// Calls every operation of a service by the client that OpenAPI Generator made.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"example.test/calls/client"
)

func check(err error) {
	if err == nil {
		return
	}
	var refused *client.GenericOpenAPIError
	if errors.As(err, &refused) {
		fmt.Println(string(refused.Body()))
	}
	panic(err)
}

func number(id client.IdNumber) any {
	if id.Int64 != nil {
		return *id.Int64
	}
	return *id.String
}

func wanted(number int64) *client.WantedNumber {
	return &client.WantedNumber{Int64: &number}
}

func main() {
	settings := client.NewConfiguration()
	settings.Servers = client.ServerConfigurations{{URL: os.Args[1]}}
	api, with := client.NewAPIClient(settings), context.Background()

	text, _, err := api.ServiceAPI.Livez(with).Execute()
	check(err)
	fmt.Println("livez", text)
	text, _, err = api.ServiceAPI.Readyz(with).Execute()
	check(err)
	fmt.Println("readyz", text)
	text, _, err = api.ServiceAPI.Metrics(with).Execute()
	check(err)
	fmt.Println("metrics", strings.Contains(text, "idservice_"))
	page, err := api.ServiceAPI.StatusPage(with).Execute()
	check(err)
	fmt.Println("statusPage", page.StatusCode)
	page, err = api.ServiceAPI.Docs(with).Execute()
	check(err)
	fmt.Println("docs", page.StatusCode)
	document, _, err := api.ServiceAPI.Openapi(with).Execute()
	check(err)
	fmt.Println("openapi", *document["openapi"])

	counters := api.CountersAPI
	wish := client.NewCounterConfiguration()
	wish.Start = wanted(1000)
	counter, _, err := counters.CreateCounter(with, "orders").CounterConfiguration(*wish).Execute()
	check(err)
	fmt.Println("createCounter", number(counter.Start), number(counter.Limit))
	next := api.IdsAPI.GetNextOfCounter(with, "orders").Format("json")
	ids, _, err := next.Execute()
	check(err)
	fmt.Println("getNextOfCounter", number(*ids.Id))
	ids, _, err = next.Count(3).Execute()
	check(err)
	fmt.Print("getNextOfCounter")
	for _, id := range ids.Ids {
		fmt.Print(" ", number(id))
	}
	fmt.Println()
	ids, _, err = api.IdsAPI.PostNextOfCounter(with, "orders").Format("ranges").Count(5).Nonce("n").Execute()
	check(err)
	for _, each := range ids.Ranges {
		fmt.Println("postNextOfCounter", number(each.First), each.Step, each.Count, *ids.Nonce)
	}
	list, _, err := counters.ListCounters(with).Limit(1).Execute()
	check(err)
	fmt.Println("listCounters", list.Counters[0].Counter, *list.Next)
	list, _, err = counters.ListCounters(with).After(*list.Next).Execute()
	check(err)
	fmt.Println("listCounters", list.Counters[0].Counter)
	counter, _, err = counters.ShowCounter(with, "orders").Execute()
	check(err)
	fmt.Println("showCounter", counter.State, *counter.Next.Int64 > 1008, len(counter.Gaps))
	status, _, err := api.ServiceAPI.Status(with).Execute()
	check(err)
	fmt.Println("status", status.InUse)

	change := client.NewPatch()
	change.SetState("suspended")
	change.SetReason("a test")
	counter, _, err = counters.PatchCounter(with, "orders").Patch(*change).Execute()
	check(err)
	fmt.Println("patchCounter", counter.State)
	_, _, err = next.Execute()
	var refused *client.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic("a suspended counter gave an id")
	}
	problem := refused.Model().(client.Problem)
	fmt.Println("refused", problem.Status, problem.Code, problem.Retryable)
	change = client.NewPatch()
	change.SetState("active")
	counter, _, err = counters.PatchCounter(with, "orders").Patch(*change).Execute()
	check(err)
	fmt.Println("patchCounter", counter.State)
	counter, _, err = counters.SetCounter(with, "orders").SetTo(*client.NewSetTo(*wanted(5000))).Execute()
	check(err)
	fmt.Println("setCounter", counter.State)
	counter, _, err = counters.ShowCounter(with, "orders").Execute()
	check(err)
	fmt.Println("showCounter", *counter.Next.Int64 >= 5000)
	counter, _, err = counters.DeleteCounter(with, "orders").Deletion(*client.NewDeletion()).Execute()
	check(err)
	fmt.Println("deleteCounter", counter.State)

	wish = client.NewCounterConfiguration()
	check(json.Unmarshal([]byte(`{"limit":"9007199254740993","strict":true}`), wish))
	counter, _, err = counters.CreateCounter(with, "big").CounterConfiguration(*wish).Execute()
	check(err)
	fmt.Println("createCounter", number(counter.Limit))
	ids, _, err = api.IdsAPI.GetNext(with).Format("json").Execute()
	check(err)
	fmt.Println("getNext", number(*ids.Id))
	ids, _, err = api.IdsAPI.PostNext(with).Format("json").Execute()
	check(err)
	fmt.Println("postNext", number(*ids.Id))
	callTallies(api.TalliesAPI, with)
	callKeys(api, with)
	used, _, err := api.UsageAPI.ReportUsage(with).Scope("acme.*").Execute()
	check(err)
	fmt.Println("reportUsage", used.Scope, number(used.Totals.Ids))
}

func callTallies(tallies *client.TalliesAPIService, with context.Context) {
	wish := client.NewTallyConfiguration()
	wish.SetDecimals(2)
	wish.SetFloor("0")
	tally, _, err := tallies.CreateTally(with, "donations").TallyConfiguration(*wish).Execute()
	check(err)
	fmt.Println("createTally", tally.Sum, *tally.Floor.Get())
	add := func(key string, amount string) client.ApiAddToTallyRequest {
		request := tallies.AddToTally(with, "donations").IdempotencyKey(key)
		return request.AddRequest(*client.NewAddRequest(amount))
	}
	for count := 0; count < 2; count++ {
		told, _, err := add("don-1", "12.50").Execute()
		check(err)
		fmt.Println("addToTally", told.Amount, told.Sum, told.Replayed)
	}
	_, _, err = add("don-2", "-100").Execute()
	var refused *client.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic("an add went below the floor")
	}
	problem := refused.Model().(client.Problem)
	fmt.Println("refused", problem.Status, problem.Code, *problem.Sum)
	record, _, err := tallies.ShowAdd(with, "donations", "don-1").Execute()
	check(err)
	fmt.Println("showAdd", record.Kind, record.Amount)
	sum, _, err := tallies.ShowSum(with, "donations").Execute()
	check(err)
	fmt.Println("showSum", sum.Sum)
	set := tallies.SetSum(with, "donations").IdempotencyKey("year")
	done, _, err := set.SetSumRequest(*client.NewSetSumRequest("0")).Execute()
	check(err)
	fmt.Println("setSum", done.Before, done.Sum)
	change := client.NewTallyPatchRequest()
	change.SetState("suspended")
	tally, _, err = tallies.PatchTally(with, "donations").TallyPatchRequest(*change).Execute()
	check(err)
	fmt.Println("patchTally", tally.State, *tally.Floor.Get())
	list, _, err := tallies.ListTallies(with).Execute()
	check(err)
	fmt.Println("listTallies", list.Tallies[0].Tally)
	tally, _, err = tallies.DeleteTally(with, "donations").TallyDeletion(*client.NewTallyDeletion()).Execute()
	check(err)
	fmt.Println("deleteTally", tally.State)
}

func callKeys(api *client.APIClient, with context.Context) {
	keys := api.KeysAPI
	wish := client.NewKeyRequest("use", []string{"acme.*"})
	wish.SetNote("checkout")
	key, _, err := keys.CreateKey(with).KeyRequest(*wish).Execute()
	check(err)
	fmt.Println("createKey", key.Role, key.Scopes[0], strings.HasPrefix(key.Key, "idk_use_"+key.Id))
	keyed := context.WithValue(with, client.ContextAccessToken, key.Key)
	_, answer, err := api.IdsAPI.GetNextOfCounter(keyed, "acme.orders").Execute()
	fmt.Println("keyed", answer.StatusCode, code(err))
	_, answer, err = api.IdsAPI.GetNextOfCounter(keyed, "globex.orders").Execute()
	fmt.Println("refused", answer.StatusCode, code(err))
	listed, _, err := keys.ListKeys(with).Execute()
	check(err)
	fmt.Println("listKeys", listed.Keys[0].State, listed.Keys[0].Note)
	reason := client.NewRevocation()
	reason.SetReason("replaced")
	revoked, _, err := keys.RevokeKey(with, key.Id).Revocation(*reason).Execute()
	check(err)
	fmt.Println("revokeKey", revoked.State, *revoked.Reason)
}

func code(err error) string {
	var refused *client.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic(err)
	}
	var problem struct{ Code string }
	check(json.Unmarshal(refused.Body(), &problem))
	return problem.Code
}
