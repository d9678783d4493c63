//! `/api/v1/query`: what autoscalers ask, in every form they ask it.

use crate::client::{form, get, post_form, vector};
use crate::server::*;
use serde_json::json;

const DESIRED: &str = "inferno_desired_replicas";

/// Names of the variants that a query finds.
async fn found(server: &Server, query: &str) -> Vec<String> {
    let answer = server.query(query).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let mut names: Vec<String> = vector(&answer)
        .iter()
        .map(|element| element["metric"]["variant_name"].as_str().expect("named").to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_keda_sample_works_in_every_form() {
    let server = Server::ready().await;
    let query = "inferno_desired_replicas{\n  variant_name=\"qwen-14b-h100\",\n  exported_namespace=\"llm\",\n  \
                 accelerator_type=\"H100\",\n  variant_id=\"Qwen/Qwen3-14B-H100-1\"\n}\n";
    let seconds = now_ms() / 1000;
    let rfc3339 = jiff::Timestamp::from_second(seconds).unwrap().to_string();
    let whole = seconds.to_string();
    let millis = format!("{}.{:03}", seconds, 7);
    for extra in [
        vec![],
        vec![("time", "")],
        vec![("time", &*rfc3339)],
        vec![("time", &*whole)],
        vec![("time", &*millis), ("timeout", "")],
        vec![("time", &*millis), ("timeout", "-59s999ms")],
        vec![("time", &*rfc3339), ("namespace", "keda"), ("limit", "1"), ("stats", "all")],
    ] {
        let pairs = form(&[&[("query", query)], &extra[..]].concat());
        let split = form(&extra);
        for answer in [
            get(server.address, &format!("/api/v1/query?{pairs}")).await.unwrap(),
            get(server.address, &format!("//api/v1/query?{pairs}")).await.unwrap(),
            post_form(server.address, "/api/v1/query", pairs.clone()).await.unwrap(),
            post_form(server.address, &format!("//api//v1/query?{split}"), form(&[("query", query)]))
                .await
                .unwrap(),
        ] {
            assert_eq!(answer.status, 200, "{extra:?}: {}", answer.text());
            assert_eq!(answer.header("content-type"), "application/json");
            let vector = vector(&answer);
            assert_eq!(vector.len(), 1, "{extra:?}");
            assert_eq!(vector[0]["value"][1], json!("1"), "values are text");
            assert_eq!(
                vector[0]["metric"],
                json!({
                    "__name__": DESIRED, "accelerator_type": "H100", "exported_namespace": "llm",
                    "namespace": "llm", "variant_id": "Qwen/Qwen3-14B-H100-1", "variant_name": VARIANT,
                })
            );
            let time =
                answer.text().split("\"value\":[").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
            assert!(time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{time}");
            assert!(time.split('.').nth(1).is_none_or(|fraction| fraction.len() <= 3), "{time}");
        }
    }
}

#[tokio::test]
async fn all_matchers_select() {
    let server = Server::ready().await;
    let (qwen, l40s, h100) = (VARIANT, "llama-8b-l40s", "llama-8b-h100");
    for (matchers, expected) in [
        ("", vec![h100, l40s, qwen]),
        ("{variant_name=\"llama-8b-l40s\"}", vec![l40s]),
        ("{variant_name!=\"llama-8b-l40s\"}", vec![h100, qwen]),
        ("{variant_name=~\"llama.*\"}", vec![h100, l40s]),
        ("{variant_name=~\"llama\"}", vec![]),
        ("{variant_name!~\"llama.*\"}", vec![qwen]),
        ("{variant_name=~\"llama-8b-l40s|qwen-14b-h100\"}", vec![l40s, qwen]),
        ("{exported_namespace=\"llm\",accelerator_type=\"H100\"}", vec![h100, qwen]),
        ("{namespace=\"llm\",accelerator_type=\"L40S\"}", vec![l40s]),
        ("{exported_namespace=\"other\"}", vec![]),
        ("{controller_instance=\"\"}", vec![h100, l40s, qwen]),
        ("{controller_instance!=\"\"}", vec![]),
        ("{variant_name!=\"\",exported_namespace!=\"\"}", vec![h100, l40s, qwen]),
    ] {
        assert_eq!(found(&server, &format!("{DESIRED}{matchers}")).await, expected, "{matchers}");
        assert_eq!(found(&server, &format!("wva_desired_replicas{matchers}")).await, expected, "{matchers}");
    }
    assert_eq!(found(&server, "{__name__=\"inferno_desired_replicas\"}").await, [h100, l40s, qwen]);
    assert_eq!(found(&server, "{__name__=~\"inferno_(desired|current)_replicas\"}").await.len(), 6);
    assert_eq!(found(&server, &format!("( {DESIRED} )")).await.len(), 3);
}

#[tokio::test]
async fn nothing_found_is_an_empty_list() {
    let server = Server::ready().await;
    for query in ["no_such_metric", "inferno_desired_replicas{variant_name=\"x\"}"] {
        let answer = server.query(query).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("\"result\":[]"), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_is_not_evaluated_is_named() {
    let server = Server::ready().await;
    for (query, part) in [
        ("topk(1, inferno_desired_replicas)", "topk"),
        ("inferno_desired_replicas * on (variant_name) group_left inferno_current_replicas", "group_left"),
        ("deriv(inferno_requests_waiting[5m])", "deriv"),
        ("inferno_desired_replicas offset 5m", "recorded"),
        ("inferno_desired_replicas @ 100", "recorded"),
        ("max_over_time(inferno_desired_replicas[5m:1m])", "max_over_time"),
        ("\"text\"", "string"),
    ] {
        let answer = server.query(query).await;
        assert_eq!(answer.status, 422, "{query}: {}", answer.text());
        let json = answer.json();
        assert_eq!((&json["status"], &json["errorType"]), (&json!("error"), &json!("execution")), "{query}");
        assert!(json["error"].as_str().unwrap().contains(part), "{query}: {json}");
    }
}

#[tokio::test]
async fn bad_parameters_are_bad_data() {
    let server = Server::ready().await;
    for pairs in [
        vec![],
        vec![("query", "")],
        vec![("query", " \n ")],
        vec![("query", "inferno_desired_replicas{")],
        vec![("query", "inferno_desired_replicas{a=~\"(\"}")],
        vec![("query", "{}")],
        vec![("query", DESIRED), ("time", "yesterday")],
        vec![("query", DESIRED), ("time", "NaN")],
        vec![("query", DESIRED), ("time", "1e300")],
    ] {
        for answer in [
            get(server.address, &format!("/api/v1/query?{}", form(&pairs))).await.unwrap(),
            post_form(server.address, "/api/v1/query", form(&pairs)).await.unwrap(),
        ] {
            assert_eq!(answer.status, 400, "{pairs:?}: {}", answer.text());
            assert_eq!(answer.json()["errorType"], "bad_data", "{pairs:?}");
        }
    }
    // Values of the past are not recorded.
    let answer =
        get(server.address, &format!("/api/v1/query?query={DESIRED}&time=1435781451")).await.unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    let large = form(&[("query", &"x".repeat(70_000))]);
    assert_eq!(post_form(server.address, "/api/v1/query", large).await.unwrap().status, 413);
    // This would overflow the parser's stack.
    let deep = format!("{}x{}", "(".repeat(10_000), ")".repeat(10_000));
    let answer = post_form(server.address, "/api/v1/query", form(&[("query", &deep)])).await.unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(found(&server, DESIRED).await.len(), 3, "and the server lives on");
}

#[tokio::test]
async fn warming_up_is_an_error_and_never_an_empty_vector() {
    for server in [Server::unconfigured().await, Server::configured().await] {
        for query in [
            DESIRED,
            "inferno_desired_replicas{variant_name=\"qwen-14b-h100\"}",
            "wva_desired_ratio",
            "sum(inferno_desired_replicas) or vector(0)",
            "scalar(inferno_desired_replicas) + 1",
        ] {
            let answer = server.query(query).await;
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.json()["status"], "error");
            assert_eq!(answer.json()["errorType"], "unavailable");
            assert_eq!(answer.header("retry-after"), "1");
        }
        assert_eq!(server.get("/-/ready").await.status, 503);
        assert_eq!(server.get("/-/healthy").await.status, 200);
    }
}

#[tokio::test]
async fn a_variant_without_a_decision_is_not_left_out() {
    let server = Server::configured().await;
    let time = now_ms();
    let mut series = vec![waiting(time, 0.0)];
    for name in ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"] {
        series.push(one(&[("__name__", name), ("deployment", VARIANT), ("namespace", "llm")], time, 2.0));
    }
    assert_eq!(server.write(series).await.status, 204);
    let one = format!("{DESIRED}{{variant_name=\"{VARIANT}\"}}");
    assert_eq!(server.value(&one).await, "2");
    let all = server.query(DESIRED).await;
    assert_eq!(all.status, 503, "the others are undecided: {}", all.text());
    assert!(all.json()["error"].as_str().unwrap().contains("llama-8b"), "{}", all.text());
    for query in ["sum(inferno_desired_replicas)", "sum(inferno_desired_replicas) or vector(0)"] {
        assert_eq!(server.query(query).await.status, 503, "a sum over a part would be too small");
    }
    assert_eq!(server.value(&format!("sum({one}) or vector(0)")).await, "2");
}
