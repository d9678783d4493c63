//! What variants start from before their own replicas have shown anything: what an earlier instance learned of
//! them, or a profile of the same model on the same accelerators, from a file or learned of another variant.
//!
//! A variant takes what there is when it appears, or the first that is learned after that, and keeps it: a start is
//! part of what is known of it. Starts are given at the end of a publication, from what was learned by then, so that
//! the order in which models are recomputed does not matter.

use super::Engine;
use super::topology::{VariantId, VariantState};
use crate::analyze::slo::start::{Profile, Start};
use crate::config::{Role, Variant};
use crate::optimize::limiter::pool_name;
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Observations from which what was learned of a variant is a start for others: better than their own first ones.
const LENT_FROM: f64 = 30.0;

/// What must be the same for a profile to hold: model, accelerator type, accelerators per replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hardware {
    model: Arc<str>,
    pool: String,
    cards: u32,
}

impl Hardware {
    fn of(variant: &Variant) -> Self {
        let pool = pool_name(&variant.accelerator);
        Hardware { model: variant.model_id.clone(), pool, cards: variant.acc_count }
    }
}

/// Profiles that were given, and who may learn from whom.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// Of a variant of that name.
    own: BTreeMap<Arc<str>, Arc<Profile>>,
    /// The best one for some hardware.
    given: AHashMap<Hardware, Arc<Profile>>,
    /// Variants that may learn from each other.
    alike: AHashMap<(Hardware, Role), Vec<VariantId>>,
    /// Those who have just learned enough to help others.
    learned: Vec<VariantId>,
    /// Variants may be new.
    is_due: bool,
}

impl Engine {
    /// The engine with profiles to start from. Of several for the same model and accelerators the one counts that
    /// rests on most observations, of equal ones the first; one with the name of a variant (`NAMESPACE/NAME`) is
    /// what was learned of it.
    pub fn with_profiles(mut self, profiles: Vec<Profile>) -> Self {
        for profile in profiles.into_iter().map(Arc::new) {
            self.starts.own.entry(profile.id.clone()).or_insert_with(|| profile.clone());
            let pool = pool_name(&profile.accelerator);
            let hardware = Hardware { model: profile.model.clone(), pool, cards: profile.cards };
            let best = self.starts.given.entry(hardware).or_insert_with(|| profile.clone());
            if profile.observations > best.observations {
                *best = profile;
            }
        }
        self.starts.is_due = true;
        self
    }

    /// Variants have come, gone or changed.
    pub(super) fn regroup(&mut self) {
        let starts = &mut self.starts;
        starts.alike.clear();
        for (id, variant) in &self.topology.variants {
            let key = (Hardware::of(&variant.config), variant.config.role);
            starts.alike.entry(key).or_default().push(id as VariantId);
        }
        starts.is_due = true;
    }

    /// Notes that a variant may have learned enough to help others.
    pub(super) fn note_learned(&mut self, id: VariantId) {
        let variant = &mut self.topology.variants[id as usize];
        if !variant.is_lending && variant.learned.fit.observations() >= LENT_FROM {
            variant.is_lending = true;
            self.starts.learned.push(id);
        }
    }

    /// Gives a start to the variants that need one and can have one now; their models are then to be recomputed.
    pub(super) fn give_starts(&mut self) {
        let learned = std::mem::take(&mut self.starts.learned);
        if std::mem::take(&mut self.starts.is_due) {
            let groups: Vec<_> = self.starts.alike.keys().cloned().collect();
            groups.iter().for_each(|key| self.give_starts_to(key));
            return;
        }
        for id in learned {
            let Some(variant) = self.topology.variants.get(id as usize) else { continue };
            let key = (Hardware::of(&variant.config), variant.config.role);
            self.give_starts_to(&key);
        }
    }

    fn give_starts_to(&mut self, key: &(Hardware, Role)) {
        let variants = &self.topology.variants;
        let group = self.starts.alike.get(key).map_or(&[][..], Vec::as_slice);
        let needs =
            |id: &&VariantId| variants.get(**id as usize).is_some_and(|one| one.learned.needs_start());
        let needy: Vec<VariantId> = group.iter().filter(needs).copied().collect();
        if needy.is_empty() {
            return;
        }
        let lenders = group.iter().filter_map(|id| variants.get(*id as usize)).filter(|one| one.is_lending);
        let observations = |one: &VariantState| one.learned.fit.observations();
        let best = lenders.max_by(|a, b| {
            observations(a).total_cmp(&observations(b)).then_with(|| b.config.key.cmp(&a.config.key))
        });
        let best = best.and_then(profile_of).map(Arc::new).or_else(|| self.starts.given.get(&key.0).cloned());
        for id in needy {
            let variant = &mut self.topology.variants[id as usize];
            let name: &str = &variant.config.key.to_string();
            let own = self.starts.own.get(name).filter(|own| is_of(own, &key.0)).cloned();
            let is_own = own.is_some();
            let Some(profile) = own.or_else(|| best.clone()) else { continue };
            variant.learned.start_from(Start { profile, is_own });
            let model = variant.model;
            self.touch(model);
        }
    }
}

fn is_of(profile: &Profile, hardware: &Hardware) -> bool {
    let pool = pool_name(&profile.accelerator);
    profile.model == hardware.model && pool == hardware.pool && profile.cards == hardware.cards
}

fn profile_of(variant: &VariantState) -> Option<Profile> {
    let config = &variant.config;
    let (model, accelerator) = (config.model_id.clone(), config.accelerator.clone());
    variant.learned.profile(config.key.to_string().into(), model, accelerator, config.acc_count)
}
