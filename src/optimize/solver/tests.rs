//! Tests of the solver: worked examples, the differences from the published one, and properties.

use super::*;
use proptest::prelude::*;

const NOWHERE: Current = Current { accelerator: None, replicas: 0, cost: 0.0 };

/// A candidate on a type of the same number, one card per replica.
fn candidate(kind: u32, replicas: u32, value: f64) -> Candidate {
    Candidate { accelerator: Some(kind), kind, cards_per_replica: 1, replicas, cost: value, value }
}

fn server(priority: u32, candidates: &[Candidate]) -> Server {
    Server { priority, current: NOWHERE, candidates: candidates.to_vec() }
}

fn greedy(policy: SaturationPolicy) -> Options {
    Options { policy, ..Options::default() }
}

fn replicas(solution: &Solution) -> Vec<Option<(u32, u32)>> {
    solution.grants.iter().map(|grant| grant.map(|grant| (grant.candidate, grant.replicas))).collect()
}

#[test]
fn transition_is_charged_only_when_the_accelerator_changes() {
    let from = Current { accelerator: Some(1), replicas: 2, cost: 80.0 };
    assert_eq!(transition_value(&from, Some(1), 2, 80.0), 0.0);
    assert_eq!(transition_value(&from, Some(1), 3, 120.0), 40.0);
    assert_eq!(transition_value(&from, Some(2), 1, 100.0), 18.0 + 20.0);
    assert_eq!(transition_value(&NOWHERE, Some(2), 1, 100.0), 10.0 + 100.0);
}

#[test]
fn unlimited_takes_the_least_value() {
    let servers = vec![
        server(1, &[candidate(0, 9, 5.0), candidate(1, 9, 3.0), candidate(2, 1, f64::NAN)]),
        server(1, &[]),
        server(1, &[candidate(0, 1, f64::INFINITY)]),
    ];
    let problem = Problem { servers, capacity: vec![] };
    let solution = solve(&problem, &Options { unlimited: true, ..Options::default() });
    assert_eq!(replicas(&solution), [Some((1, 9)), None, None]);
}

#[test]
fn priority_then_loss_decides_who_gets_scarce_cards() {
    let both = |first, second| [candidate(0, 2, first), candidate(1, 2, second)];
    let servers =
        vec![server(5, &both(1.0, 9.0)), server(5, &both(1.0, 20.0)), server(101, &both(1.0, 99.0))];
    let problem = Problem { servers, capacity: vec![2, 4] };
    let solution = solve(&problem, &greedy(SaturationPolicy::None));
    assert_eq!(replicas(&solution), [Some((1, 2)), Some((0, 2)), Some((1, 2))]);
    assert_eq!(solution.used, [2, 4]);
}

#[test]
fn policies_share_what_is_left() {
    let want = |priority| server(priority, &[candidate(0, 4, 1.0)]);
    let problem = Problem { servers: vec![want(1), want(1), want(2)], capacity: vec![3] };
    let granted = |policy, delayed_best_effort| {
        let options = Options { delayed_best_effort, ..greedy(policy) };
        let solution = solve(&problem, &options);
        solution.grants.iter().map(|grant| grant.map_or(0, |grant| grant.replicas)).collect::<Vec<_>>()
    };
    assert_eq!(granted(SaturationPolicy::None, true), [0, 0, 0]);
    assert_eq!(granted(SaturationPolicy::PriorityExhaustive, true), [3, 0, 0]);
    assert_eq!(granted(SaturationPolicy::PriorityRoundRobin, true), [2, 1, 0]);
    assert_eq!(granted(SaturationPolicy::RoundRobin, true), [1, 1, 1]);
    assert_eq!(granted(SaturationPolicy::RoundRobin, false), [2, 1, 0]);
    assert_eq!(SaturationPolicy::from_name("bogus"), SaturationPolicy::None);
}

#[test]
fn no_replicas_is_an_allocation() {
    let nothing = Candidate { accelerator: None, replicas: 0, ..candidate(0, 0, 0.0) };
    let problem = Problem { servers: vec![server(1, &[nothing])], capacity: vec![] };
    assert_eq!(replicas(&solve(&problem, &Options::default())), [Some((0, 0))]);
}

#[test]
fn a_reduced_grant_has_its_own_cost_and_value() {
    let current = Current { accelerator: Some(0), replicas: 1, cost: 10.0 };
    let wanted = Candidate { cost: 40.0, value: 30.0, ..candidate(0, 4, 0.0) };
    let problem = Problem {
        servers: vec![Server { priority: 1, current, candidates: vec![wanted] }],
        capacity: vec![3],
    };
    let grant = solve(&problem, &greedy(SaturationPolicy::PriorityExhaustive)).grants[0].unwrap();
    assert_eq!((grant.replicas, grant.wanted, grant.cost, grant.value), (3, 4, 30.0, 20.0));
}

/// The greedy order serves the largest loss (5) and makes two others lose 4 each.
#[test]
fn best_value_beats_greedy_where_one_large_server_displaces_two() {
    let servers = vec![
        server(1, &[candidate(0, 4, 10.0), candidate(1, 4, 15.0)]),
        server(1, &[candidate(0, 2, 6.0), candidate(1, 2, 10.0)]),
        server(1, &[candidate(0, 2, 6.0), candidate(1, 2, 10.0)]),
    ];
    let problem = Problem { servers, capacity: vec![4, 8] };
    let plain = solve(&problem, &Options::default());
    let better = solve(&problem, &Options { search: Search::BestValue, ..Options::default() });
    assert_eq!((plain.value(), better.value()), (30.0, 27.0));
}

/// A server with no other choice is left out by greedy although room can be made for it.
#[test]
fn best_value_makes_room_for_a_server_without_alternatives() {
    let servers = vec![
        server(1, &[candidate(0, 3, 1.0)]),
        server(1, &[candidate(0, 2, 9.0), candidate(1, 2, 9.5)]),
        server(1, &[candidate(0, 3, 2.0)]),
    ];
    let problem = Problem { servers, capacity: vec![6, 2] };
    let options = Options { search: Search::BestValue, ..Options::default() };
    assert!(solve(&problem, &options).grants.iter().all(Option::is_some));
}

fn problems(servers: std::ops::Range<usize>) -> impl Strategy<Value = Problem> {
    let candidate =
        (0_u32..4, 1_u32..4, 0_u32..6, 0.0..100.0).prop_map(|(kind, cards, replicas, cost)| Candidate {
            accelerator: (replicas > 0).then_some(kind),
            kind,
            cards_per_replica: cards,
            replicas,
            cost,
            value: cost,
        });
    let server =
        (0_u32..4, prop::collection::vec(candidate, 0..5), prop::option::of(0_u32..4), 0_u32..4, 0.0..50.0)
            .prop_map(|(priority, mut candidates, accelerator, replicas, cost)| {
                let current = Current { accelerator, replicas, cost };
                for candidate in &mut candidates {
                    let Candidate { accelerator, replicas, cost, .. } = *candidate;
                    candidate.value = transition_value(&current, accelerator, replicas, cost);
                }
                Server { priority, current, candidates }
            });
    (prop::collection::vec(server, servers), prop::collection::vec(0_u64..30, 3))
        .prop_map(|(servers, capacity)| Problem { servers, capacity })
}

fn options() -> impl Strategy<Value = Options> {
    let policy = prop_oneof![
        Just(SaturationPolicy::None),
        Just(SaturationPolicy::PriorityExhaustive),
        Just(SaturationPolicy::PriorityRoundRobin),
        Just(SaturationPolicy::RoundRobin),
    ];
    let search = prop_oneof![Just(Search::Greedy), Just(Search::BestValue)];
    (any::<bool>(), policy, search).prop_map(|(delayed_best_effort, policy, search)| Options {
        unlimited: false,
        delayed_best_effort,
        policy,
        search,
    })
}

/// For each priority from the highest: servers without an allocation, and total value.
fn scores(problem: &Problem, solution: &Solution) -> Vec<(usize, f64)> {
    (1..=100)
        .map(|rank| {
            let of_rank = || problem.servers.iter().zip(&solution.grants).filter(|(s, _)| s.rank() == rank);
            let missing = of_rank().filter(|(s, grant)| !s.candidates.is_empty() && grant.is_none()).count();
            (missing, of_rank().filter_map(|(_, grant)| grant.map(|grant| grant.value)).sum())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Grants are real: wanted replicas at most, cards never above the inventory, the same every time.
    #[test]
    fn never_above_the_inventory(problem in problems(0..30), options in options()) {
        let solution = solve(&problem, &options);
        let mut used = vec![0_u64; problem.capacity.len()];
        for (server, grant) in problem.servers.iter().zip(&solution.grants) {
            let Some(grant) = grant else { continue };
            let chosen = &server.candidates[grant.candidate as usize];
            prop_assert!(grant.replicas <= chosen.replicas && grant.wanted == chosen.replicas);
            if chosen.cards(grant.replicas) > 0 {
                prop_assert!((chosen.kind as usize) < used.len(), "a type without cards was granted");
                used[chosen.kind as usize] += chosen.cards(grant.replicas);
            }
        }
        prop_assert!(used.iter().zip(&problem.capacity).all(|(used, capacity)| used <= capacity));
        prop_assert_eq!(&used, &solution.used);
        prop_assert_eq!(&solution, &solve(&problem, &options));
    }

    /// The order of candidates, and of servers when names are sorted first, changes nothing.
    #[test]
    fn input_order_changes_nothing(problem in problems(0..20), options in options(), turn in 0_usize..20) {
        let mut turned = problem.clone();
        for server in &mut turned.servers {
            let by = turn % server.candidates.len().max(1);
            server.candidates.rotate_left(by);
        }
        let chosen = |problem: &Problem, solution: &Solution| -> Vec<Option<(Candidate, u32)>> {
            let pick = |(server, grant): (&Server, &Option<Grant>)| {
                grant.map(|grant| (server.candidates[grant.candidate as usize], grant.replicas))
            };
            problem.servers.iter().zip(&solution.grants).map(pick).collect()
        };
        let (a, b) = (solve(&problem, &options), solve(&turned, &options));
        let distinct = problem.servers.iter().all(|server| {
            let values = || server.candidates.iter().map(|candidate| candidate.value.to_bits());
            values().collect::<std::collections::BTreeSet<_>>().len() == server.candidates.len()
        });
        if distinct {
            prop_assert_eq!(chosen(&problem, &a), chosen(&turned, &b));
        }
    }

    /// Without ties the order of the servers changes nothing either.
    #[test]
    fn server_order_changes_nothing_without_ties(
        problem in problems(0..20),
        policy in options().prop_map(|options| Options { search: Search::Greedy, ..options }),
        turn in 0_usize..20,
    ) {
        let mut values: Vec<f64> = problem.servers.iter().flat_map(|s| &s.candidates).map(|c| c.value).collect();
        values.sort_by(f64::total_cmp);
        if values.windows(2).any(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        let mut turned = problem.clone();
        let by = turn % problem.servers.len().max(1);
        turned.servers.rotate_left(by);
        let mut grants = solve(&turned, &policy).grants;
        grants.rotate_right(by);
        prop_assert_eq!(solve(&problem, &policy).grants, grants);
    }

    /// Improvement never leaves the highest priority that it touches worse off.
    #[test]
    fn best_value_is_never_worse_than_greedy(problem in problems(0..30)) {
        let greedy = Options { delayed_best_effort: true, ..Options::default() };
        let best = Options { search: Search::BestValue, ..greedy };
        let (greedy, best) = (scores(&problem, &solve(&problem, &greedy)), scores(&problem, &solve(&problem, &best)));
        for (greedy, best) in greedy.iter().zip(&best) {
            if greedy.0 != best.0 || (greedy.1 - best.1).abs() > 1e-9 {
                prop_assert!(best.0 < greedy.0 || (best.0 == greedy.0 && best.1 < greedy.1));
                return Ok(());
            }
        }
    }

    /// On small systems of one priority the result is the best of all combinations.
    #[test]
    fn best_value_is_optimal_on_small_systems(mut problem in problems(0..6)) {
        problem.servers.iter_mut().for_each(|server| server.priority = 1);
        let options = Options { search: Search::BestValue, ..Options::default() };
        let found = scores(&problem, &solve(&problem, &options))[0];
        let best = enumerate(&problem, 0, &mut Stock { left: problem.capacity.clone() });
        prop_assert_eq!(found.0, best.0);
        prop_assert!((found.1 - best.1).abs() < 1e-9);
    }
}

/// Least (unallocated, value) over all combinations from a server on.
fn enumerate(problem: &Problem, at: usize, stock: &mut Stock) -> (usize, f64) {
    let Some(server) = problem.servers.get(at) else { return (0, 0.0) };
    let rest = enumerate(problem, at + 1, stock);
    let mut best = (rest.0 + usize::from(!server.candidates.is_empty()), rest.1);
    for candidate in &server.candidates {
        if stock.take(candidate, candidate.replicas) {
            let rest = enumerate(problem, at + 1, stock);
            let found = (rest.0, rest.1 + candidate.value);
            if found.0 < best.0 || (found.0 == best.0 && found.1 < best.1) {
                best = found;
            }
            stock.give_back(candidate, candidate.replicas);
        }
    }
    best
}
