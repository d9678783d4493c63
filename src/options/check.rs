//! Flags of `check`.

use super::CONFIG_DIR;
use super::cluster::Actuation;
use clap::Args;
use std::path::PathBuf;

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    /// Folder of Kubernetes objects.
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR, env = "INFERNO_CONFIG_DIR")]
    pub config_dir: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long, env = "INFERNO_JSON")]
    pub json: bool,
    /// Check the cluster that KUBECONFIG or the service account names instead of a folder: definitions,
    /// permissions, objects, and what they point to.
    #[arg(long)]
    pub cluster: bool,
    /// What else says where to look.
    #[command(flatten)]
    pub within: WithinFlags,
}

/// Flags of `check --cluster`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "With --cluster")]
pub struct WithinFlags {
    /// Namespaces to look at, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", env = "INFERNO_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Only objects with this label wva.llmd.ai/controller-instance.
    #[arg(long, value_name = "NAME", env = "INFERNO_CONTROLLER_INSTANCE")]
    pub controller_instance: Option<String>,
    /// Namespace of the sidecar, whose ConfigMaps are for everybody [default: that of the context].
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// Whose permissions are checked, as NAMESPACE/NAME [default: one's own].
    #[arg(long, value_name = "ACCOUNT", requires = "cluster")]
    pub service_account: Option<String>,
    /// Who scales, which needs more permissions [default: none].
    #[arg(long, value_enum, env = "INFERNO_ACTUATION")]
    pub actuation: Option<Actuation>,
    /// URL of a running sidecar, to say also which inputs it misses.
    #[arg(long, value_name = "URL", requires = "cluster")]
    pub sidecar: Option<String>,
}
