//! Configuration end to end: files beside this one are resolved and compared with what stands in the
//! `.expected` file of the same name; `UPDATE_GOLDEN=1` writes those anew. `NAME.then.yaml` is the same
//! source later, resolved with the outcome of `NAME.yaml` as memory.

mod properties;
mod watcher;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use inferno_sidecar::config::check::{render, render_json};
use inferno_sidecar::config::objects::{Document, DocumentContent, documents};
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::config::{InventoryConfig, Kept, Role, Snapshot, VariantKey};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// The snapshot as text, in full.
pub fn describe(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for variant in snapshot.variants.values() {
        let v = variant;
        let _ = writeln!(text, "variant {} ({:?})", v.key, v.source);
        let _ = writeln!(text, "  model {}, target {:?} {}", v.model_id, v.target.kind, v.target.name);
        if v.role != Role::Both {
            let _ = writeln!(text, "  role {}", v.role.as_str());
        }
        let _ = writeln!(text, "  {} x {}, cost {}", v.acc_count, v.accelerator, v.cost);
        let _ = writeln!(
            text,
            "  replicas {:?} to {:?}, instance {:?}",
            v.min_replicas, v.max_replicas, v.controller_instance
        );
        for p in &v.profiles {
            let _ = writeln!(
                text,
                "  profile {} x {}: {:?}, batch {} at {} tokens",
                p.acc_count, p.accelerator, p.perf, p.max_batch, p.at_tokens
            );
        }
        if let Some(slo) = &v.slo {
            let _ = writeln!(text, "  slo {} (priority {}): {:?}", slo.class, slo.priority, slo.targets);
        }
    }
    for (key, model) in &snapshot.models {
        let _ = writeln!(
            text,
            "model {key}\n  {:?}\n  {:?}\n  {:?}",
            model.saturation, model.scale_to_zero, model.queueing
        );
    }
    for accelerator in snapshot.accelerators.values() {
        let _ = writeln!(text, "{accelerator:?}");
    }
    for (key, class) in &snapshot.classes {
        let _ = writeln!(text, "{key}: {class:?}");
    }
    let _ = writeln!(text, "{:?}", snapshot.main);
    if snapshot.inventory != InventoryConfig::default() {
        let _ = writeln!(text, "{:?}", snapshot.inventory);
        for model in snapshot.models.keys().filter(|model| snapshot.is_limited(model)) {
            let _ = writeln!(text, "  limited: {model}");
        }
    }
    text
}

fn read(path: &Path) -> Vec<Document> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap();
    documents(&name.replace(".then", ""), &fs::read_to_string(path).unwrap())
}

#[test]
fn golden() {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".yaml").map(Into::into))
        .collect();
    names.sort();
    assert!(names.len() > 3);
    for name in names {
        let path = folder().join(format!("{name}.yaml"));
        let before = match name.strip_suffix(".then") {
            Some(first) => resolve(&read(&folder().join(format!("{first}.yaml"))), &Resolved::default()),
            None => Resolved::default(),
        };
        let resolved = resolve(&read(&path), &before);
        let found = format!("{}\n{}", describe(&resolved.snapshot), render(&resolved));
        let expected = folder().join(format!("{name}.expected"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        assert!(found == wanted, "{name}: found\n{found}\ninstead of\n{wanted}");
    }
}

#[test]
fn order_of_documents_does_not_matter() {
    for name in ["shapes", "policies", "mistakes", "inventory", "roles"] {
        let mut documents = read(&folder().join(format!("{name}.yaml")));
        let forward = resolve(&documents, &Resolved::default());
        documents.reverse();
        assert_eq!(forward, resolve(&documents, &Resolved::default()), "{name}");
    }
}

#[test]
fn resolving_again_changes_nothing() {
    for name in ["shapes", "policies", "mistakes", "last_good.then", "inventory.then"] {
        let documents = read(&folder().join(format!("{name}.yaml")));
        let first = resolve(&documents, &Resolved::default());
        let second = resolve(&documents, &first);
        assert_eq!(first.snapshot, second.snapshot, "{name}");
        assert_eq!(second, resolve(&documents, &second), "{name}");
    }
}

#[test]
fn every_good_value_outlives_two_bad_ones() {
    let good = read(&folder().join("last_good.yaml"));
    let bad = read(&folder().join("last_good.then.yaml"));
    let first = resolve(&bad, &resolve(&good, &Resolved::default()));
    let second = resolve(&bad, &first);
    assert_eq!(first.snapshot, second.snapshot);
    assert_eq!(first.problems, second.problems);
    let repaired = resolve(&good, &second);
    assert_eq!(repaired.snapshot, resolve(&good, &Resolved::default()).snapshot);
    assert!(repaired.problems.is_empty());
}

#[test]
fn an_unreadable_file_keeps_what_came_from_it_and_nothing_else() {
    let variant = |name: &str| {
        let head = "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n";
        format!("{head}metadata: {{name: {name}}}\nspec: {{modelID: m}}\n")
    };
    let mut all = documents("a.yaml", &variant("a"));
    all.extend(documents("b.yaml", &variant("b")));
    let good = resolve(&all, &Resolved::default());
    let broken = resolve(&documents("a.yaml", "{"), &good);
    let names: Vec<String> = broken.snapshot.variants.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["default/a"]);
    assert_eq!(broken.problems[0].kept, Kept::LastGood);
    assert!(broken.problems[0].fix.contains("VariantAutoscaling default/a"), "{}", broken.problems[0]);
    // Moved to another file: that one is in force.
    let moved = documents("c.yaml", &variant("a").replace("modelID: m", "modelID: moved"));
    let both = resolve(&[documents("a.yaml", "{"), moved].concat(), &broken);
    assert_eq!(&*both.snapshot.variants[&VariantKey::new("default", "a")].model_id, "moved");
    // Gone with its file.
    assert!(resolve(&[], &broken).snapshot.variants.is_empty());
}

#[test]
fn a_lost_source_keeps_everything() {
    let good = resolve(&read(&folder().join("shapes.yaml")), &Resolved::default());
    let content =
        DocumentContent::SourceLost { reason: "the folder is gone".into(), fix: "bring it back".into() };
    let lost = resolve(&[Document { origin: "config".into(), content }], &good);
    assert_eq!(lost.snapshot, good.snapshot);
    assert_eq!(lost.problems.len(), 1);
    assert_eq!(lost.problems[0].kept, Kept::LastGood);
}

#[test]
fn the_report_counts_and_is_json_too() {
    let resolved = resolve(&read(&folder().join("shapes.yaml")), &Resolved::default());
    let json = render_json(&resolved);
    assert_eq!(json["variants"], 7);
    assert_eq!(json["service_classes"], 2);
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(0));
    assert!(
        render(&resolved).ends_with("7 variants, 6 models, 2 service classes, 2 accelerators, 0 problems\n"),
        "{}",
        render(&resolved)
    );
}

#[test]
fn a_thousand_variants_resolve_fast_and_share_what_did_not_change() {
    let shapes = fs::read_to_string(folder().join("shapes.yaml")).unwrap();
    let mut all = documents("shapes.yaml", &shapes);
    let first = all[0].clone();
    for index in 0..1000 {
        let DocumentContent::Object(mut value) = first.content.clone() else { panic!("no object") };
        value["metadata"]["name"] = format!("v-{index}").into();
        all.push(Document { origin: format!("many.yaml#{index}"), content: DocumentContent::Object(value) });
    }
    let before = resolve(&all, &Resolved::default());
    assert_eq!(before.snapshot.variants.len(), 1007);
    let DocumentContent::Object(last) = &mut all[1010].content else { panic!("no object") };
    last["spec"]["variantCost"] = "3".into();
    let start = std::time::Instant::now();
    let after = resolve(&all, &before);
    println!("1007 variants resolved in {:?}", start.elapsed());
    let touched = |key: &&VariantKey| {
        !std::sync::Arc::ptr_eq(&before.snapshot.variants[*key], &after.snapshot.variants[*key])
    };
    assert_eq!(after.snapshot.variants.keys().filter(touched).count(), 1);
}
