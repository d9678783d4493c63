//! The shapes of pod names: which scale target could have made this pod?

use crate::config::TargetKind;

/// Characters that Kubernetes uses in generated suffixes (no vowels, no 0, 1, 3).
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether `pod` has the name that a target of this kind and name gives its pods.
///
/// Deployment `NAME-<pod-template-hash>-<5 generated>`, StatefulSet `NAME-<ordinal>`,
/// LeaderWorkerSet `NAME-<group>` (leader) and `NAME-<group>-<worker>`.
pub fn belongs_to(pod: &str, kind: TargetKind, target: &str) -> bool {
    let Some(rest) = pod.strip_prefix(target).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    match kind {
        TargetKind::Deployment => {
            let Some((hash, suffix)) = rest.split_once('-') else { return false };
            (1..=10).contains(&hash.len()) && generated(hash) && suffix.len() == 5 && generated(suffix)
        }
        TargetKind::StatefulSet => ordinal(rest),
        TargetKind::LeaderWorkerSet => match rest.split_once('-') {
            None => ordinal(rest),
            Some((group, worker)) => ordinal(group) && ordinal(worker),
        },
    }
}

/// Whether `pod` is a worker of a LeaderWorkerSet group, i.e. not a replica of its own.
pub fn is_group_worker(pod: &str, target: &str) -> bool {
    pod.strip_prefix(target)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(group, worker)| ordinal(group) && ordinal(worker))
}

fn generated(text: &str) -> bool {
    text.bytes().all(|byte| GENERATED.contains(&byte))
}

fn ordinal(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetKind::*;

    #[test]
    fn pods_of_each_kind_are_recognised() {
        for (pod, kind, target, expected) in [
            ("llama-8b-7d9c5b8f6d-x2x4z", Deployment, "llama-8b", true),
            ("llama-8b-h100-7d9c5b8f6d-x2x4z", Deployment, "llama-8b", false),
            ("llama-8b-0", StatefulSet, "llama-8b", true),
            ("llama-8b-0", Deployment, "llama-8b", false),
            ("llama-8b-01", StatefulSet, "llama-8b", false),
            ("llama-8b-12", LeaderWorkerSet, "llama-8b", true),
            ("llama-8b-12-3", LeaderWorkerSet, "llama-8b", true),
            ("llama-8b-12-3", StatefulSet, "llama-8b", false),
            ("llama-8b", StatefulSet, "llama-8b", false),
            ("llama-8bx-0", StatefulSet, "llama-8b", false),
        ] {
            assert_eq!(belongs_to(pod, kind, target), expected, "{pod} {kind:?} {target}");
        }
        assert!(is_group_worker("m-1-2", "m") && !is_group_worker("m-1", "m"));
    }
}
