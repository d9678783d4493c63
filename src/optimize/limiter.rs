//! GPU limiter: cuts scale-ups to the accelerators that are there.
//!
//! Input: one [`Pool`] of cards per accelerator type and one [`Request`] per variant. Output: one
//! [`Grant`] per request. Replicas that run already are never taken away. It must not know how the
//! inventory was counted.

use crate::analyze::rule::Rule;

/// Cards of one accelerator type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Cards that exist.
    pub limit: u64,
    /// Cards in use by anything. The limiter raises it to what the requests themselves use; under
    /// [`Rule::Reference`] that is all that counts.
    pub used: u64,
}

impl Pool {
    /// Cards that are free.
    pub fn available(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// What one variant wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Index of its pool; `None`, or an index beyond the pools, when the inventory does not have its
    /// accelerator type: nothing can be added then.
    pub pool: Option<u32>,
    /// Replicas that run now.
    pub current: u32,
    /// Replicas wanted.
    pub target: u32,
    /// Cards per replica; 0 counts as 1 (in [`Rule::Reference`] as 0 where it is in use already).
    pub gpus_per_replica: u32,
    /// Spare capacity of the variant, 0..1; those with less come first, NaN comes last.
    pub spare_capacity: f64,
    /// Cost of one replica; the cheaper of two with equal spare comes first, NaN comes last.
    pub cost: f64,
}

/// What one variant gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Replicas granted: `target`, or fewer but never below `current` because of the limit.
    pub target: u32,
    /// Cards taken from the pool for the replicas added.
    pub gpus_allocated: u64,
    /// Whether the variant wanted more than it got.
    pub limited: bool,
}

/// The limiter; keeps its working memory from call to call.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    order: Vec<usize>,
    free: Vec<u64>,
}

impl Limiter {
    /// Grants `requests` from `pools` into `out`, one entry per request. Afterwards `pools` shows the
    /// use *before* the grants.
    ///
    /// Requests for more replicas are served in ascending order of spare capacity, then cost, then
    /// index; each gets the whole replicas that fit.
    ///
    /// [`Rule::Guarded`] differs as follows: cards that do not make a whole replica stay for the next
    /// request (the reference loses them), a replica of 0 cards counts as 1 also where it runs already,
    /// and the pool's own `used` counts when it is higher than the use of the requests.
    pub fn limit_into(&mut self, out: &mut Vec<Grant>, rule: Rule, pools: &mut [Pool], requests: &[Request]) {
        self.count_used(rule, pools, requests);
        out.clear();
        out.extend(requests.iter().map(|r| Grant { target: r.target, ..Grant::default() }));
        let wants = |i: &usize| requests[*i].target > requests[*i].current;
        self.order.clear();
        self.order.extend((0..requests.len()).filter(wants));
        self.order.sort_unstable_by(|&a, &b| {
            let rank = |i: usize| (requests[i].spare_capacity + 0.0, requests[i].cost + 0.0);
            let (a_rank, b_rank) = (rank(a), rank(b));
            (a_rank.0.total_cmp(&b_rank.0)).then(a_rank.1.total_cmp(&b_rank.1)).then(a.cmp(&b))
        });
        for &i in &self.order {
            let request = &requests[i];
            let per_replica = u64::from(request.gpus_per_replica.max(1));
            let added = request.target - request.current;
            let pool = request.pool.and_then(|p| self.free.get_mut(p as usize));
            let free = pool.as_ref().map_or(0, |free| **free);
            let wanted = u64::from(added) * per_replica;
            // At most `added`, so it fits the replicas' type.
            let granted = (wanted.min(free) / per_replica) as u32;
            let taken = u64::from(granted) * per_replica;
            if let Some(free) = pool {
                *free -= if rule == Rule::Reference { wanted.min(*free) } else { taken };
            }
            out[i] =
                Grant { target: request.current + granted, gpus_allocated: taken, limited: granted < added };
        }
    }

    fn count_used(&mut self, rule: Rule, pools: &mut [Pool], requests: &[Request]) {
        self.free.clear();
        self.free.resize(pools.len(), 0);
        for request in requests {
            let per_replica = match rule {
                Rule::Reference => request.gpus_per_replica,
                Rule::Guarded => request.gpus_per_replica.max(1),
            };
            if let Some(used) = request.pool.and_then(|p| self.free.get_mut(p as usize)) {
                *used = used.saturating_add(u64::from(request.current) * u64::from(per_replica));
            }
        }
        for (pool, used) in pools.iter_mut().zip(&mut self.free) {
            pool.used = if rule == Rule::Guarded { pool.used.max(*used) } else { *used };
            *used = pool.available();
        }
    }
}

/// The accelerator type in a device name: `A100` of `NVIDIA-A100-PCIE-80GB`, `Gaudi-2` of
/// `Intel-Gaudi-2-96GB`, and the whole name where it has no dash.
pub fn accelerator_type(device: &str) -> &str {
    let Some((vendor, rest)) = device.split_once('-') else {
        return device;
    };
    let words = if vendor.eq_ignore_ascii_case("intel") { 2 } else { 1 };
    let end = rest.match_indices('-').nth(words - 1).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

/// The name under which cards of one type are counted, however a configuration or a node writes it: `h100`
/// of `H100`, `NVIDIA-H100-80GB-HBM3`, `nvidia-h100-80gb` and `nvidia-tesla-h100`. Names without the maker
/// in front are taken as they are, but for case.
pub fn pool_name(name: &str) -> String {
    const MAKERS: [&str; 3] = ["nvidia-", "amd-", "intel-"];
    const SERIES: [&str; 4] = ["tesla-", "instinct-", "radeon-", "geforce-"];
    let name = name.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    if !MAKERS.iter().any(|maker| name.starts_with(maker)) {
        return name;
    }
    let plain = SERIES.iter().fold(name, |name, series| name.replacen(series, "", 1));
    accelerator_type(&plain).to_owned()
}

#[cfg(test)]
mod tests;
