//! `deploy/`: the bases render, what autoscalers read is right, and the keep-list keeps what the dialects need.

use super::*;
use regex::Regex;
use serde_json::json;

/// Folders with a kustomization.
pub const BASES: [&str; 7] =
    ["base", "kind", "gke", "openshift", "prometheus", "prometheus-operator", "observability"];

pub fn kustomized(base: &str) -> Vec<Value> {
    let kubectl = program("kubernetes", "kubectl");
    objects(&output_of(Command::new(kubectl).arg("kustomize").arg(root().join("deploy").join(base))))
}

/// The YAML files of a folder of `deploy`.
pub fn files(folder: &str) -> Vec<(String, Vec<Value>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("deploy").join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push((path.display().to_string(), objects(&fs::read_to_string(path).unwrap())));
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn every_base_renders_and_check_accepts_it() {
    for base in BASES {
        let objects = kustomized(base);
        assert_eq!(check(&objects)["problems"], json!([]), "{base}");
        if !["prometheus", "observability"].contains(&base) {
            find(&objects, "Deployment inferno-sidecar");
            assert_eq!(
                find(&objects, "Service inferno-sidecar")["spec"]["publishNotReadyAddresses"],
                true,
                "{base}"
            );
        }
    }
    let kind = kustomized("kind");
    let image =
        &find(&kind, "Deployment inferno-sidecar")["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "inferno-sidecar:dev");
}

#[test]
fn autoscalers_ask_for_what_is_published() {
    for (path, objects) in files("keda").into_iter().chain(files("hpa")) {
        if path.ends_with("adapter-values.yaml") {
            continue;
        }
        assert_eq!(check(&objects)["problems"], json!([]), "{path}");
        let text = objects[0].to_string();
        assert!(text.contains("llama-8b-h100"), "{path}");
        let names = ["inferno_desired_replicas", "external", "external-push"];
        assert!(names.iter().any(|name| text.contains(name)), "{path}");
    }
}

/// The keep-lists of all senders.
fn keep_lists() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let regex = Regex::new(r#"regex: "(vllm:[^"]+)""#).unwrap();
    for path in [
        "deploy/prometheus/prometheus.yml",
        "deploy/prometheus-operator/remote-write.yaml",
        "deploy/openshift/monitoring.yaml",
    ] {
        let text = read(path);
        let list = regex.captures(&text).unwrap_or_else(|| panic!("{path} has a keep-list"))[1].to_owned();
        found.push((path.to_owned(), list));
    }
    found
}

#[test]
fn the_keep_lists_keep_what_the_dialects_read_and_little_else() {
    let metric = Regex::new(r#"metric: "?([a-zA-Z_:0-9]+)"?"#).unwrap();
    for (path, list) in keep_lists() {
        let keep = Regex::new(&format!("^(?:{list})$")).unwrap();
        let mut count = 0;
        for entry in fs::read_dir(root().join("src/series/dialects")).unwrap() {
            let table = fs::read_to_string(entry.unwrap().path()).unwrap();
            for found in metric.captures_iter(&table) {
                assert!(keep.is_match(&found[1]), "{path} drops {}", &found[1]);
                count += 1;
            }
        }
        assert!(count > 40);
        for other in
            ["vllm:e2e_request_latency_seconds_bucket", "vllm:time_to_first_token_seconds_bucket", "up"]
        {
            assert!(!keep.is_match(other), "{path} keeps {other}");
        }
    }
}

#[test]
fn prometheus_accepts_its_configuration() {
    let promtool = program("prometheus", "promtool");
    let config = root().join("deploy/prometheus/prometheus.yml");
    output_of(Command::new(promtool).args(["check", "config", "--syntax-only"]).arg(config));
}

#[test]
fn rights_are_those_of_the_rbac_folder() {
    let base = kustomized("base");
    let rules: Vec<&Value> = base.iter().filter_map(|object| object["rules"].as_array()).flatten().collect();
    for feature in ["mirror", "status", "events", "lease"] {
        let path = format!("deploy/rbac/{feature}.yaml");
        let text = read(&path);
        for rule in objects(&text).iter().filter_map(|object| object["rules"].as_array()).flatten() {
            assert!(rules.contains(&rule), "deploy/base/rbac.yaml lacks {rule} of {path}");
        }
    }
}

#[test]
fn pages_name_files_that_exist_and_yaml_that_check_accepts() {
    let link = Regex::new(r"\]\(([^)#:]+)(?:#[^)]*)?\)").unwrap();
    let path = Regex::new(r"\b((?:deploy|charts|config)/[A-Za-z0-9_./-]*[A-Za-z0-9_])").unwrap();
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("deploy/pages")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() >= 8);
    pages.extend(
        ["deploy/README.md", "deploy/observability/README.md", "charts/inferno-sidecar/README.md"]
            .map(|p| root().join(p)),
    );
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let folder = page.parent().unwrap();
        for found in link.captures_iter(&text) {
            assert!(folder.join(&found[1]).exists(), "{}: {}", page.display(), &found[1]);
        }
        for found in path.captures_iter(&text).filter(|found| &found[1] != "charts/inferno-sidecar/crds") {
            assert!(root().join(&found[1]).exists(), "{}: {}", page.display(), &found[1]);
        }
        for yaml in fences(&text, "yaml") {
            assert_eq!(check(&objects(&yaml))["problems"], json!([]), "{}", page.display());
        }
    }
}

#[test]
fn the_image_is_built_from_what_it_copies() {
    let dockerfile = read("deploy/Dockerfile");
    let dir = tempfile::tempdir().unwrap();
    let copied = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.contains("--from"));
    for line in copied {
        let (sources, target) = line.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            let target =
                if target.ends_with('/') { dir.path().join(source) } else { dir.path().join(target) };
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            output_of(Command::new("cp").arg("-r").arg(root().join(source)).arg(target));
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    output_of(cargo.args(["metadata", "--locked", "--offline", "--no-deps"]).current_dir(dir.path()));
    let included = Regex::new(r#"include_str!\("((?:\.\./)+)([^"]+)"\)"#).unwrap();
    for file in walk(&dir.path().join("src")) {
        for found in included.captures_iter(&fs::read_to_string(&file).unwrap()) {
            let path = file.parent().unwrap().join(format!("{}{}", &found[1], &found[2]));
            assert!(path.exists(), "the Dockerfile does not copy {}", &found[2]);
        }
    }
    assert!(dockerfile.contains("USER 65532") && dockerfile.contains("FROM scratch"));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}
