//! The shapes of pod names: which scale target could have made this pod?

use crate::config::TargetKind;

/// Characters that Kubernetes uses in generated suffixes (no vowels, no 0, 1, 3).
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Longest generated pod name, and the part of it that is random: the name before that is cut to fit.
const GENERATED_NAME_MAX: usize = 63;
const RANDOM_SUFFIX: usize = 5;

/// Whether `pod` has the name that a target of this kind and name gives its pods.
///
/// Deployment `NAME-<pod-template-hash>-<5 generated>`, StatefulSet `NAME-<ordinal>`,
/// LeaderWorkerSet `NAME-<group>` (leader) and `NAME-<group>-<worker>`. A Deployment's long name is cut:
/// Kubernetes keeps 58 characters of `NAME-<pod-template-hash>-` before the random suffix.
pub fn belongs_to(pod: &str, kind: TargetKind, target: &str) -> bool {
    if kind == TargetKind::Deployment && is_cut(pod, target) {
        return true;
    }
    let Some(rest) = pod.strip_prefix(target).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    match kind {
        TargetKind::Deployment => {
            let Some((hash, suffix)) = rest.split_once('-') else { return false };
            is_hash(hash) && suffix.len() == RANDOM_SUFFIX && generated(suffix)
        }
        TargetKind::StatefulSet => ordinal(rest),
        TargetKind::LeaderWorkerSet => match rest.split_once('-') {
            None => ordinal(rest),
            Some((group, worker)) => ordinal(group) && ordinal(worker),
        },
    }
}

/// Names of targets that may have made `pod`, the longer first; `None` when its name is cut, so that any target
/// with such a beginning may have.
pub fn possible_targets(pod: &str) -> Option<impl Iterator<Item = &str>> {
    let one = pod.rsplit_once('-').map(|(name, _)| name);
    let two = one.and_then(|name| name.rsplit_once('-')).map(|(name, _)| name);
    (pod.len() != GENERATED_NAME_MAX).then(|| one.into_iter().chain(two))
}

/// Whether `pod` is a worker of a LeaderWorkerSet group, i.e. not a replica of its own.
pub fn is_group_worker(pod: &str, target: &str) -> bool {
    pod.strip_prefix(target)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(group, worker)| ordinal(group) && ordinal(worker))
}

/// Whether `pod` is what remains of `TARGET-<pod-template-hash>-` and a random suffix after the cut.
fn is_cut(pod: &str, target: &str) -> bool {
    if pod.len() != GENERATED_NAME_MAX {
        return false;
    }
    let Some((base, suffix)) = pod.split_at_checked(GENERATED_NAME_MAX - RANDOM_SUFFIX) else {
        return false;
    };
    let of_target = match base.strip_prefix(target) {
        Some(rest) => rest.strip_prefix('-').map_or(rest.is_empty(), |hash| hash.is_empty() || is_hash(hash)),
        None => target.starts_with(base),
    };
    of_target && generated(suffix)
}

fn is_hash(text: &str) -> bool {
    (1..=10).contains(&text.len()) && generated(text)
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
        let long = "meta-llama-llama-3-1-8b-instruct-h100-decode-eu-west"; // 52 characters
        for (pod, target, expected) in [
            (format!("{long}-7d9c5x2x4z"), long.to_owned(), true),
            (format!("{long}-7d9c5aeiou"), long.to_owned(), false),
            (format!("{long}-7d9c5b8f6d-x2x4z"), long.to_owned(), true),
            (format!("{long}-7d9c5x2x4"), long.to_owned(), false),
            (format!("{long}-decodx2x4z"), format!("{long}-decode"), true),
            (format!("{long}-decodx2x4z"), format!("{long}-prefill"), false),
        ] {
            assert_eq!(belongs_to(&pod, Deployment, &target), expected, "{pod} {target}");
        }
        assert!(is_group_worker("m-1-2", "m") && !is_group_worker("m-1", "m"));
    }
}
