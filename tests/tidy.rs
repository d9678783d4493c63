//! Habits of the design, held by a test: documented and short files, short functions, no orphan files, a
//! pure core, dependencies in one direction, and a README that names every metric and flag.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use inferno_sidecar::publish::gauges::FAMILIES;
use regex::Regex;

/// Most lines of a source file; there are no exceptions.
const FILE_LINES_MAX: usize = 500;
/// Most lines of a function; a ratchet, to be lowered and never raised.
const FUNCTION_LINES_MAX: usize = 70;
/// Modules without input, output, clock and runtime.
const PURE: &[&str] = &[
    "units", "limits", "wire", "series", "window", "config", "analyze", "optimize", "publish", "engine",
    "emulate",
];
/// What a pure module cannot contain.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::net",
    "tokio",
    "Instant::now",
    "SystemTime::now",
    "kube::",
    "axum",
    "hyper",
];
/// Modules in the order of dependency: each may use those of a lower level only.
const LEVELS: &[&[&str]] = &[
    &["units", "limits"],
    &["wire", "config"],
    &["series"],
    &["window"],
    &["analyze"],
    &["optimize"],
    &["publish"],
    &["engine"],
];
/// What the modules beside that order may use of it.
const BESIDE: &[(&str, &[&str])] =
    &[("emulate", &["units", "config", "proto"]), ("mirror", &["units", "limits", "config"])];

struct Source {
    /// Path below `src`.
    path: PathBuf,
    text: String,
    /// The text with comments and the contents of literals blanked out; lines stay where they are.
    code: String,
}

impl Source {
    /// First part of the module path: `wire` for `wire/v1.rs`.
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap();
        Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20);
    found
}

fn collect(dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = blanked(&text);
            let path = path.strip_prefix(root().join("src")).unwrap().to_owned();
            found.push(Source { path, text, code });
        }
    }
}

/// Comments and the contents of string and character literals as spaces.
fn blanked(text: &str) -> String {
    let literals = Regex::new(
        r##"(?s)//[^\n]*|/\*.*?\*/|b?r#".*?"#|b?r"[^"]*"|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'"##,
    )
    .unwrap();
    let blank = |found: &regex::Captures<'_>| -> String {
        found[0].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
    };
    literals.replace_all(text, blank).into_owned()
}

/// Fails with everything that is wrong, not only the first.
fn none_of(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn blanking_keeps_code_and_lines() {
    let text = "let a = \"{\\\"\"; // {\nlet b = '{'; let c: &'static str = r#\"}\n\"#; f('\\'', b'}')";
    let code = blanked(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(!code.contains(['{', '}']) && code.contains("'static str"), "{code}");
}

#[test]
fn every_file_begins_with_its_documentation() {
    let undocumented = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    none_of(undocumented.map(|source| source.name()).collect());
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().map(|source| (source.name(), source.text.lines().count()));
    none_of(
        long.filter(|(_, n)| *n > FILE_LINES_MAX).map(|(name, n)| format!("{name}: {n} lines")).collect(),
    );
}

#[test]
fn functions_are_short() {
    let head = Regex::new(r"\bfn\s+(\w+)").unwrap();
    let mut wrong = Vec::new();
    for source in sources() {
        for found in head.captures_iter(&source.code) {
            let rest = &source.code[found.get(0).unwrap().start()..];
            let lines = function_lines(rest);
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{}: fn {} has {lines} lines", source.name(), &found[1]));
            }
        }
    }
    none_of(wrong);
}

/// Lines from `fn` to its closing brace; a declaration without a body has one.
fn function_lines(code: &str) -> usize {
    let (mut braces, mut brackets, mut lines) = (0, 0, 1);
    for c in code.chars() {
        match c {
            '\n' => lines += 1,
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces <= 0 {
                    return lines;
                }
            }
            _ => {}
        }
    }
    lines
}

#[test]
fn every_file_is_part_of_the_program() {
    let declared = Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;").unwrap();
    let sources: BTreeMap<PathBuf, Source> = sources().into_iter().map(|s| (s.path.clone(), s)).collect();
    let mut reached = BTreeSet::new();
    let mut queue = vec![PathBuf::from("lib.rs"), PathBuf::from("main.rs")];
    while let Some(path) = queue.pop() {
        let Some(source) = sources.get(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = match &*stem {
            "lib" | "main" | "mod" => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        for found in declared.captures_iter(&source.code) {
            queue.push(folder.join(format!("{}.rs", &found[1])));
            queue.push(folder.join(&found[1]).join("mod.rs"));
        }
    }
    none_of(sources.keys().filter(|p| !reached.contains(*p)).map(|p| p.display().to_string()).collect());
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&&*source.module())) {
        for (number, line) in source.code.lines().enumerate() {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", source.name(), number + 1));
            }
        }
    }
    none_of(wrong);
}

#[test]
fn dependencies_point_in_one_direction() {
    let used = Regex::new(r"\bcrate::(\w+)").unwrap();
    let level = |name: &str| LEVELS.iter().position(|level| level.contains(&name));
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        for found in used.captures_iter(&source.code).filter(|found| found[1] != module) {
            let other = &found[1];
            let allowed = match (level(&module), BESIDE.iter().find(|(name, _)| *name == module)) {
                (Some(own), _) => level(other).is_some_and(|level| level < own),
                (None, Some((_, allowed))) => allowed.contains(&other),
                (None, None) => true,
            };
            if !allowed {
                wrong.push(format!("{}: {module} uses {other}", source.name()));
            }
        }
    }
    none_of(wrong);
}

#[test]
fn the_readme_names_every_metric_and_flag() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        println!("there is no README.md yet");
        return;
    };
    let mut names: BTreeSet<String> = FAMILIES.iter().map(|family| family.name.to_owned()).collect();
    let own = Regex::new(r#""(inferno_sidecar_[a-z0-9_]+)"#).unwrap();
    for source in sources() {
        names.extend(own.captures_iter(&source.text).map(|found| found[1].to_owned()));
        if ["options.rs", "options/security.rs", "options/limits.rs"].contains(&&*source.name()) {
            names.extend(flags(&source.text));
        }
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words: BTreeSet<&str> = readme.split(|c| !word(c)).collect();
    none_of(
        names
            .into_iter()
            .filter(|name| !words.contains(&**name))
            .map(|n| format!("README.md lacks {n}"))
            .collect(),
    );
}

/// Flags of the clap structures in `text`, as `--name`.
fn flags(text: &str) -> Vec<String> {
    let named = Regex::new(r#"\blong\s*=\s*"([a-z0-9-]+)""#).unwrap();
    let derived = Regex::new(r"(?s)#\[arg\(([^\]]*)\)\]\s*(?:///[^\n]*\s*)*(?:pub\s+)?(\w+)\s*:").unwrap();
    let mut flags: Vec<String> = named.captures_iter(text).map(|found| format!("--{}", &found[1])).collect();
    for found in derived.captures_iter(text) {
        let long = found[1].split(',').any(|part| part.trim() == "long");
        if long {
            flags.push(format!("--{}", found[2].replace('_', "-")));
        }
    }
    flags
}

#[test]
fn flags_are_found() {
    let text = "#[arg(long, env = \"X\")]\npub config_dir: P,\n#[arg(short, long = \"listen\")]\npub address: A,\n\
                #[arg(value_name = \"N\")]\npub model: M,";
    assert_eq!(flags(text), ["--listen", "--config-dir"]);
}
