//! Basic authentication: user names with bcrypt hashes, as `htpasswd -B` writes them.
//!
//! A hash takes as long to compute as a whole batch of samples many times over, so it is computed once per
//! name and password, beside the threads that serve requests, one at a time; the answer is remembered
//! under a keyed digest. A flood of wrong passwords therefore takes one core at most, and those that wait
//! too long are turned away.

use super::{Denied, Digest, digest};
use crate::limits::{LOGIN_COST_MAX, LOGIN_USERS_MAX, LOGINS_REMEMBERED_MAX, LOGINS_WAITING_MAX};
use crate::tls::SecretFile;
use bcrypt::HashParts;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// One hash is computed at a time, whatever the surface.
static COMPUTING: Semaphore = Semaphore::const_new(1);
/// Requests that may wait for a hash, the one computed included.
static WAITING: Semaphore = Semaphore::const_new(LOGINS_WAITING_MAX);

/// The users of a surface.
pub struct Passwords {
    hashes: HashMap<String, String>,
    /// A hash to compare with where there is no such user, so that both take as long.
    decoy: String,
    /// Names and passwords checked so far, with the outcome.
    remembered: Mutex<HashMap<Digest, bool>>,
}

impl Passwords {
    /// Reads `user:hash` lines; empty lines and those that begin with `#` are skipped.
    pub fn read(file: &SecretFile) -> Result<Self, String> {
        let mut hashes = HashMap::new();
        for (index, line) in file.text()?.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| format!("{}: line {}: {what}", file.path.display(), index + 1);
            let (user, hash) = line.split_once(':').ok_or_else(|| wrong("is not user:hash"))?;
            let parts = HashParts::from_str(hash)
                .map_err(|_| wrong("holds no bcrypt hash ($2b$...); make one with: htpasswd -nBC 10 USER"))?;
            if parts.get_cost() > LOGIN_COST_MAX {
                return Err(wrong(&format!("the cost is above {LOGIN_COST_MAX}; take 10")));
            }
            if user.is_empty() || hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(wrong("the user name is empty or occurs twice"));
            }
        }
        if hashes.len() > LOGIN_USERS_MAX {
            return Err(format!("{}: more than {LOGIN_USERS_MAX} users", file.path.display()));
        }
        let decoy = hashes.values().next().cloned();
        let decoy = decoy.ok_or_else(|| format!("{}: names no user", file.path.display()))?;
        Ok(Passwords { hashes, decoy, remembered: Mutex::default() })
    }

    /// Whether the password is the user's.
    pub async fn check(&self, user: &str, password: &str) -> Result<(), Denied> {
        let answer = |is_right: bool| is_right.then_some(()).ok_or(Denied::Wrong);
        let key = digest(&[user, password]);
        if let Some(is_right) = self.remembered(&key) {
            return answer(is_right);
        }
        let _waiting = WAITING.try_acquire().map_err(|_| Denied::Busy)?;
        let _computing = COMPUTING.acquire().await.map_err(|_| Denied::Busy)?;
        // Those that waited for the same hash find it here.
        if let Some(is_right) = self.remembered(&key) {
            return answer(is_right);
        }
        let known = self.hashes.get(user);
        let (hash, password) = (known.unwrap_or(&self.decoy).clone(), password.to_owned());
        let computed = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let is_right = computed.await.map_err(|_| Denied::Busy)? && known.is_some();
        self.remember(key, is_right);
        answer(is_right)
    }

    fn remembered(&self, key: &Digest) -> Option<bool> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn remember(&self, key: Digest, is_right: bool) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= LOGINS_REMEMBERED_MAX {
            // Right ones are few: about as many as users.
            remembered.retain(|_, is_right| *is_right);
        }
        if remembered.len() < LOGINS_REMEMBERED_MAX {
            remembered.insert(key, is_right);
        }
    }
}
