//! The rest of the Prometheus API: what prometheus-adapter, KEDA and Grafana ask beside plain selectors.

use crate::client::{Answer, form, get, post_form};
use crate::server::*;
use serde_json::{Value, json};

const DESIRED: &str = "inferno_desired_replicas";
const RELIST: &str = "wva_desired_replicas{variant_name!=\"\",exported_namespace!=\"\"}";

/// Asks by `GET` and by `POST` and wants the same answer.
async fn ask(server: &Server, path: &str, pairs: &[(&str, &str)]) -> Answer {
    let got = get(server.address, &format!("{path}?{}", form(pairs))).await.unwrap();
    let posted = post_form(server.address, path, form(pairs)).await.unwrap();
    assert_eq!((got.status, got.text()), (posted.status, posted.text()), "{path} {pairs:?}");
    got
}

/// `data` of a successful answer.
fn data(answer: &Answer) -> Value {
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    assert_eq!(json["status"], "success", "{json}");
    json["data"].clone()
}

/// Now, in the form of prometheus-adapter.
fn decimal(offset_ms: i64) -> String {
    let time = now_ms() + offset_ms;
    format!("{}.{:03}", time / 1000, time % 1000)
}

#[tokio::test]
async fn expressions_are_evaluated() {
    let server = Server::ready().await;
    for (query, expected) in [
        ("sum(inferno_desired_replicas)", "3"),
        ("sum by (accelerator_type) (inferno_desired_replicas{accelerator_type=\"L40S\"})", "1"),
        ("max(wva_desired_replicas{exported_namespace=\"llm\"}) * 2 + 1", "3"),
        ("inferno_desired_replicas{variant_name=\"qwen-14b-h100\"} > 0", "1"),
        ("sum(inferno_desired_replicas - inferno_current_replicas)", "0"),
        ("sum(inferno_desired_replicas{variant_name=\"nobody\"}) or vector(0)", "0"),
        ("clamp_min(inferno_desired_replicas{variant_name=\"qwen-14b-h100\"}, 2)", "2"),
    ] {
        assert_eq!(server.value(query).await, expected, "{query}");
    }
}

/// Grafana's "Save & test" asks for `1+1`; the answer is a scalar, ready or not.
#[tokio::test]
async fn a_scalar_is_a_pair() {
    let server = Server::unconfigured().await;
    let answer = ask(&server, "/api/v1/query", &[("query", "1+1"), ("time", "99999999999.5")]).await;
    assert_eq!(data(&answer), json!({"resultType": "scalar", "result": [99999999999.5, "2"]}));
    assert!(answer.text().contains("[99999999999.5,\"2\"]"), "{}", answer.text());
    let answer = ask(&server, "/api/v1/query", &[("query", "1+1"), ("limit", "1"), ("time", "9e9")]).await;
    assert_eq!(data(&answer)["result"][1], "2", "a limit does not cut a scalar");
}

/// prometheus-adapter lists, then asks for what it found.
#[tokio::test]
async fn the_adapter_finds_and_reads_its_metric() {
    let server = Server::ready().await;
    let start = decimal(-600_000);
    let answer = ask(&server, "/api/v1/series", &[("match[]", RELIST), ("start", &start)]).await;
    let series = data(&answer);
    assert_eq!(series.as_array().map(Vec::len), Some(3));
    for labels in series.as_array().unwrap() {
        assert_eq!(labels["__name__"], "wva_desired_replicas");
        assert_eq!(labels["namespace"], "llm");
        assert_eq!(labels["exported_namespace"], "llm");
        assert!(labels["variant_name"].is_string());
    }
    let query = "wva_desired_replicas{variant_name=\"qwen-14b-h100\",exported_namespace=\"llm\"}";
    for timeout in ["", "-59s999ms", "30s"] {
        let time = decimal(0);
        let pairs = [("query", query), ("time", &time), ("timeout", timeout)];
        let answer = ask(&server, "/api/v1/query", &pairs).await;
        assert_eq!(data(&answer)["result"][0]["value"][1], "1");
    }
}

#[tokio::test]
async fn series_are_listed_before_there_is_a_decision() {
    let server = Server::configured().await;
    let series = data(&ask(&server, "/api/v1/series", &[("match[]", RELIST)]).await);
    assert_eq!(series.as_array().map(Vec::len), Some(3), "an adapter knows a metric only from here");
    let nothing = ask(&server, "/api/v1/series", &[("match[]", "no_such_metric")]).await;
    assert!(nothing.text().contains("\"data\":[]"), "never null: {}", nothing.text());
    // An empty list would make the adapter forget its metrics; after an error it keeps them.
    let unconfigured = Server::unconfigured().await;
    assert_eq!(ask(&unconfigured, "/api/v1/series", &[("match[]", RELIST)]).await.status, 503);
}

#[tokio::test]
async fn several_selectors_give_their_union() {
    let server = Server::ready().await;
    let both =
        [("match[]", DESIRED), ("match[]", "{__name__=\"inferno_desired_replicas\",namespace=\"llm\"}")];
    assert_eq!(data(&ask(&server, "/api/v1/series", &both).await).as_array().map(Vec::len), Some(3));
    let limited = [("match[]", DESIRED), ("limit", "2")];
    let answer = ask(&server, "/api/v1/series", &limited).await;
    assert_eq!(data(&answer).as_array().map(Vec::len), Some(2));
    assert_eq!(answer.json()["warnings"], json!(["results truncated due to limit"]));
    let all = ask(&server, "/api/v1/series", &[("match[]", DESIRED), ("limit", "0")]).await;
    assert_eq!(data(&all).as_array().map(Vec::len), Some(3));
    assert_eq!(all.json()["warnings"], Value::Null);
}

#[tokio::test]
async fn labels_and_their_values_are_listed() {
    let server = Server::ready().await;
    let names = data(&ask(&server, "/api/v1/labels", &[("match[]", DESIRED)]).await);
    let expected =
        ["__name__", "accelerator_type", "exported_namespace", "namespace", "variant_id", "variant_name"];
    assert_eq!(names, json!(expected));
    let names = data(&ask(&server, "/api/v1/labels", &[]).await);
    assert!(names.as_array().unwrap().contains(&json!("reason")), "{names}");
    let values = data(&server.get("/api/v1/label/accelerator_type/values").await);
    assert_eq!(values, json!(["H100", "L40S"]));
    let matching = form(&[("match[]", "inferno_desired_replicas{variant_name=~\"llama.*\"}")]);
    let values = data(&server.get(&format!("/api/v1/label/variant_name/values?{matching}")).await);
    assert_eq!(values, json!(["llama-8b-h100", "llama-8b-l40s"]));
    let values = data(&server.get("/api/v1/label/__name__/values?limit=1000&start=1&end=2").await);
    assert!(values.as_array().unwrap().contains(&json!(DESIRED)), "{values}");
    assert_eq!(data(&server.get("/api/v1/label/nothing/values").await), json!([]));
}

#[tokio::test]
async fn metadata_and_version_are_told() {
    let server = Server::ready().await;
    let metadata = data(&server.get("/api/v1/metadata").await);
    assert_eq!(metadata[DESIRED][0]["type"], "gauge");
    assert_eq!(metadata["inferno_replica_scaling_total"][0]["type"], "counter");
    assert!(!metadata[DESIRED][0]["help"].as_str().unwrap().is_empty());
    let one = data(&server.get(&format!("/api/v1/metadata?metric={DESIRED}&limit=5")).await);
    assert_eq!(one.as_object().unwrap().len(), 1);
    assert_eq!(data(&server.get("/api/v1/metadata?limit=2").await).as_object().unwrap().len(), 2);
    let info = data(&server.get("/api/v1/status/buildinfo").await);
    assert_eq!(info["version"], "2.24.0");
    assert_eq!(info["application"], "inferno-sidecar");
}

/// A panel over the last minutes, in the form of Grafana's data source: it begins where the record does.
#[tokio::test]
async fn a_recent_range_ends_in_the_present() {
    let server = Server::ready().await;
    let end = now_ms() / 1000;
    let (start, end) = ((end - 240).to_string(), end.to_string());
    let pairs = [("query", DESIRED), ("start", &start), ("end", &end), ("step", "15")];
    let answer = data(&ask(&server, "/api/v1/query_range", &pairs).await);
    assert_eq!(answer["resultType"], "matrix");
    let series = answer["result"].as_array().unwrap();
    assert_eq!(series.len(), 3);
    for line in series {
        let values = line["values"].as_array().unwrap();
        assert_eq!(values.last(), Some(&json!([end.parse::<i64>().unwrap(), "1"])));
        assert_eq!(line["metric"]["__name__"], DESIRED);
    }
    let pairs = [("query", "1"), ("start", &*start), ("end", &*start), ("step", "1m"), ("limit", "1")];
    let scalar = data(&ask(&server, "/api/v1/query_range", &pairs).await);
    assert_eq!(scalar["result"], json!([{"metric": {}, "values": [[start.parse::<i64>().unwrap(), "1"]]}]));
    let limited = [("query", DESIRED), ("start", &*start), ("end", &*end), ("step", "15"), ("limit", "1")];
    let answer = ask(&server, "/api/v1/query_range", &limited).await;
    assert_eq!(data(&answer)["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.json()["warnings"], json!(["results truncated due to limit"]));
}

#[tokio::test]
async fn ranges_that_cannot_be_answered_say_why() {
    let server = Server::ready().await;
    let (now, recent) = (decimal(0), decimal(-60_000));
    for (start, end, step, code, said) in [
        (&*now, &*recent, "15", 400, "end timestamp must not be before start"),
        (&*recent, &*now, "0", 400, "step"),
        (&*recent, &*now, "-1", 400, "step"),
        (&*recent, &*now, "soon", 400, "step"),
        (&*recent, &*now, "0.001", 400, "points per series"),
        (&*recent, "1e12", "15", 400, "points per series"),
        ("", &*now, "15", 400, "\"start\" is missing"),
        (&*recent, "", "15", 400, "\"end\" is missing"),
        (&*recent, &*now, "", 400, "\"step\" is missing"),
        (&*recent, "never", "15", 400, "\"end\""),
    ] {
        let pairs = [("query", DESIRED), ("start", start), ("end", end), ("step", step)];
        let answer = ask(&server, "/api/v1/query_range", &pairs).await;
        assert_eq!(answer.status, code, "{start} {end} {step}: {}", answer.text());
        assert!(answer.json()["error"].as_str().unwrap().contains(said), "{}", answer.text());
    }
    let pairs =
        [("query", "inferno_desired_replicas[5m]"), ("start", &*recent), ("end", &*now), ("step", "15")];
    let answer = ask(&server, "/api/v1/query_range", &pairs).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let server = Server::ready().await;
    for (path, pairs, said) in [
        ("/api/v1/series", vec![], "match[]"),
        ("/api/v1/series", vec![("match[]", "")], "match[]"),
        ("/api/v1/series", vec![("match[]", "sum(x)")], "not a series selector"),
        ("/api/v1/series", vec![("match[]", "x{")], "match[]"),
        ("/api/v1/series", vec![("match[]", "x"), ("start", "soon")], "start"),
        ("/api/v1/series", vec![("match[]", "x"), ("limit", "-1")], "limit"),
        ("/api/v1/labels", vec![("match[]", "x"), ("match[]", "y(")], "match[]"),
        ("/api/v1/query", vec![("query", DESIRED), ("limit", "many")], "limit"),
    ] {
        let answer = ask(&server, path, &pairs).await;
        assert_eq!(answer.status, 400, "{path} {pairs:?}: {}", answer.text());
        assert_eq!(answer.json()["errorType"], "bad_data");
        assert!(answer.text().contains(said), "{path} {pairs:?}: {}", answer.text());
    }
}

/// KEDA's scaler takes one element only; `limit` gives it one.
#[tokio::test]
async fn a_limit_cuts_a_vector() {
    let server = Server::ready().await;
    let answer = ask(&server, "/api/v1/query", &[("query", DESIRED), ("limit", "1"), ("time", "9e9")]).await;
    assert_eq!(data(&answer)["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.json()["warnings"], json!(["results truncated due to limit"]));
}
