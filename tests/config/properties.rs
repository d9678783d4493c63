//! No input makes the resolution panic, and what it gives is always within bounds.

use inferno_sidecar::config::objects::{Document, DocumentContent, documents};
use inferno_sidecar::config::resolve::{Resolved, resolve};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Anything that JSON can say, with words that mean something mixed in.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.{}:\\[\\]\" \n-]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "1",
            "-1",
            "NaN",
            "true",
            "x".repeat(3000).leak(),
            "\u{0}",
            "é",
            "premium"
        ])
        .prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z_.-]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What to do at one place of a document.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Value),
    Remove,
    Rename(String),
    Duplicate,
}

fn any_mutation() -> impl Strategy<Value = (prop::sample::Index, Mutation)> {
    let mutation = prop_oneof![
        4 => any_json().prop_map(Mutation::Replace),
        1 => Just(Mutation::Remove),
        1 => "[a-zA-Z]{1,4}".prop_map(Mutation::Rename),
        1 => Just(Mutation::Duplicate),
    ];
    (any::<prop::sample::Index>(), mutation)
}

/// Paths of all places in a value.
fn places(value: &Value, here: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    found.push(here.clone());
    let children: Vec<(String, &Value)> = match value {
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        here.push(key);
        places(child, here, found);
        here.pop();
    }
}

fn at<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?),
        Value::Object(map) => map.get_mut(key),
        _ => None,
    })
}

fn mutate(value: &mut Value, place: prop::sample::Index, mutation: Mutation) {
    let mut found = Vec::new();
    places(value, &mut Vec::new(), &mut found);
    let path = place.get(&found).clone();
    let Some((last, parents)) = path.split_last() else {
        if let Mutation::Replace(new) = mutation {
            *value = new;
        }
        return;
    };
    match (at(value, parents), mutation) {
        (Some(parent), Mutation::Replace(new)) => {
            if let Some(target) = at(parent, std::slice::from_ref(last)) {
                *target = new;
            }
        }
        (Some(Value::Object(map)), Mutation::Remove) => drop(map.remove(last)),
        (Some(Value::Object(map)), Mutation::Rename(suffix)) => {
            if let Some(value) = map.remove(last) {
                map.insert(format!("{last}{suffix}"), value);
            }
        }
        (Some(Value::Array(list)), Mutation::Duplicate) => {
            if let Some(item) = last.parse::<usize>().ok().and_then(|index| list.get(index).cloned()) {
                list.push(item);
            }
        }
        _ => {}
    }
}

fn valid() -> Vec<Value> {
    ["shapes", "policies", "last_good"]
        .into_iter()
        .flat_map(|name| {
            documents(name, &std::fs::read_to_string(super::folder().join(format!("{name}.yaml"))).unwrap())
        })
        .filter_map(|document| match document.content {
            DocumentContent::Object(value) => Some(value),
            _ => None,
        })
        .collect()
}

fn numbered(values: &[Value]) -> Vec<Document> {
    let content = |value: &Value| DocumentContent::Object(value.clone());
    values
        .iter()
        .enumerate()
        .map(|(index, value)| Document { origin: format!("f#{index}"), content: content(value) })
        .collect()
}

fn check_bounds(resolved: &Resolved) {
    let good = |number: f64| number.is_finite() && number >= 0.0;
    for variant in resolved.snapshot.variants.values() {
        assert!(good(variant.cost) && variant.acc_count >= 1);
        assert!(variant.min_replicas.zip(variant.max_replicas).is_none_or(|(min, max)| min <= max));
        assert!(!variant.model_id.is_empty() && variant.model_id.len() <= 1024);
        assert!(resolved.snapshot.models.contains_key(&variant.model()));
    }
    for model in resolved.snapshot.models.values() {
        let s = &model.saturation;
        assert!(
            s.kv_spare_trigger < s.kv_cache_threshold && s.scale_down_boundary < s.scale_up_threshold,
            "{s:?}"
        );
        assert!(s.kv_cache_threshold <= 1.0 && s.scale_up_threshold <= 1.0 && good(s.queue_length_threshold));
        assert!(model.scale_to_zero.retention_ms > 0);
        assert!(model.queueing.is_none_or(|queueing| queueing.slo_multiplier > 1.0));
    }
    for problem in &resolved.problems {
        assert!(problem.to_string().len() < 4096 && !problem.fix.is_empty() && !problem.reason.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Mutated objects never panic, never leave bounds, and mending them mends everything.
    #[test]
    fn mutated_objects(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any_mutation()), 1..12),
    ) {
        let original = valid();
        let first = resolve(&numbered(&original), &Resolved::default());
        let mut values = original.clone();
        for (which, (place, mutation)) in mutations {
            mutate(which.get_mut(&mut values), place, mutation);
        }
        let fresh = resolve(&numbered(&values), &Resolved::default());
        check_bounds(&fresh);
        let second = resolve(&numbered(&values), &first);
        check_bounds(&second);
        let again = resolve(&numbered(&values), &second);
        prop_assert_eq!(&again.snapshot, &second.snapshot);
        prop_assert_eq!(resolve(&numbered(&original), &again).snapshot, first.snapshot);
    }

    /// Arbitrary values as whole documents and as texts of ConfigMaps.
    #[test]
    fn arbitrary_documents(value in any_json(), text in "\\PC{0,60}") {
        let names = ["service-classes-config", "accelerator-unit-costs", "saturation-scaling-config",
            "model-scale-to-zero-config", "queueing-model-config", "variantautoscaling-config"];
        for name in names {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
                "data": {"a": value.to_string(), "default": text, "config.yaml": text, "v": value}});
            check_bounds(&resolve(&numbered(&[value.clone(), map]), &Resolved::default()));
        }
    }

    /// Arbitrary text as a file.
    #[test]
    fn arbitrary_text(text in "(\\PC|[-:{}\\[\\]&*!|>\n ]){0,200}") {
        check_bounds(&resolve(&documents("x.yaml", &text), &Resolved::default()));
        check_bounds(&resolve(&documents("x.json", &text), &Resolved::default()));
    }
}
