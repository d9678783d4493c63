//! Configuration documents to their recorded form and back.

use crate::config::objects::{Document, DocumentContent, without_foreign};
use crate::proto::recording as pb;
use crate::proto::recording::document::Content;

/// Documents as they are recorded. Kinds that say nothing to the sidecar, such as Secrets, are left out.
pub fn recorded(documents: &[Document]) -> Vec<pb::Document> {
    let one = |document: &Document| {
        let unreadable =
            |reason: &String, fix: &String| pb::Unreadable { reason: reason.clone(), fix: fix.clone() };
        let content = match &document.content {
            DocumentContent::Object(value) => Content::Json(without_foreign(value)?.to_string()),
            DocumentContent::Broken { reason, fix } => Content::Broken(unreadable(reason, fix)),
            DocumentContent::SourceLost { reason, fix } => Content::SourceLost(unreadable(reason, fix)),
        };
        Some(pb::Document { origin: document.origin.clone(), content: Some(content) })
    };
    documents.iter().filter_map(one).collect()
}

/// Recorded documents as they were.
pub fn documents(recorded: Vec<pb::Document>) -> Vec<Document> {
    let one = |recorded: pb::Document| {
        let content = match recorded.content? {
            Content::Json(text) => DocumentContent::Object(serde_json::from_str(&text).ok()?),
            Content::Broken(pb::Unreadable { reason, fix }) => DocumentContent::Broken { reason, fix },
            Content::SourceLost(pb::Unreadable { reason, fix }) => {
                DocumentContent::SourceLost { reason, fix }
            }
        };
        Some(Document { origin: recorded.origin, content })
    };
    recorded.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::objects::documents as parse;

    #[test]
    fn documents_come_back_as_they_were_and_secrets_are_not_kept() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '1'}\n---\n\
                    apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {x: hush}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  data: {x: hush}\n\
                    - apiVersion: v1\n  kind: Namespace\n  metadata: {name: n}\n---\nfoo: [\n";
        let before = parse("a.yaml", text);
        let recorded = recorded(&before);
        assert!(!format!("{recorded:?}").contains("hush"));
        let after = documents(recorded);
        assert_eq!(after.len(), 3);
        assert_eq!((&after[0], &after[2]), (&before[0], &before[3]));
        assert_eq!(after[1].origin, "a.yaml#3");
        let DocumentContent::Object(list) = &after[1].content else { panic!("{:?}", after[1]) };
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
    }
    #[test]
    fn variables_of_containers_are_not_kept() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\n  annotations:\n    \
                    kubectl.kubernetes.io/last-applied-configuration: '{hush}'\nspec: {template: {spec: \
                    {containers: [{name: c, args: [--max-num-seqs=8], env: [{name: T, value: hush}]}]}}}\n";
        let recorded = format!("{:?}", recorded(&parse("a.yaml", text)));
        assert!(recorded.contains("--max-num-seqs=8") && !recorded.contains("hush"), "{recorded}");
    }
}
