//! Roles of variants in a model that is served in two parts.

/// Which part of a request a variant serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Prompt and answer.
    #[default]
    Both,
    /// The prompt, up to the first token.
    Prefill,
    /// The tokens after the first.
    Decode,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Both, Role::Prefill, Role::Decode];

    /// Name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Both => "both",
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        }
    }
}
