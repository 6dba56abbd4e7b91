use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    connections: 2,
    connecting: 2,
    waiting: 3,
    idle_timeout: Duration::from_secs(60),
    min_idle: 0,
    steal_after: Duration::from_millis(100),
};

type TestBook = Book<u32, char>;

fn ask(book: &mut TestBook, pool: PoolIndex, waiter: char, now: Instant) -> Asked<u32, char> {
    book.ask(pool, |_| true, || waiter, now)
}

fn lease(book: &mut TestBook, pool: PoolIndex, connection: u32, now: Instant) {
    let Asked::Wait(_, actions) = ask(book, pool, 'x', now) else { panic!("nothing is idle") };
    assert_eq!(actions.dials, [pool]);
    assert_eq!(book.dialed(pool, connection, now).grants, [('x', connection)]);
}

#[test]
fn waiters_are_served_in_order_and_the_queue_has_a_limit() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let pool = book.add_pool(9);
    lease(&mut book, pool, 1, now);
    lease(&mut book, pool, 2, now);
    for waiter in ['a', 'b', 'c'] {
        let Asked::Wait(_, actions) = ask(&mut book, pool, waiter, now) else { panic!() };
        assert!(actions.dials.is_empty(), "the node is full");
    }
    assert!(matches!(ask(&mut book, pool, 'd', now), Asked::Full));
    assert_eq!(book.release(pool, 1, now).grants, [('a', 1)]);
    assert_eq!(book.release(pool, 2, now).grants, [('b', 2)]);
    let replaced = book.closed(pool);
    assert_eq!(replaced.dials, [pool], "the third waiter needs the closed one's place");
}

#[test]
fn an_idle_connection_of_another_pool_makes_room() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let (a, b) = (book.add_pool(9), book.add_pool(9));
    lease(&mut book, a, 1, now);
    lease(&mut book, a, 2, now);
    book.release(a, 1, now);
    let Asked::Wait(_, actions) = ask(&mut book, b, 'b', now) else { panic!() };
    assert_eq!((actions.closes, actions.dials), (vec![1], vec![b]));
}

#[test]
fn a_starved_pool_gets_the_next_slot_and_a_served_one_after_a_while() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let (a, b) = (book.add_pool(9), book.add_pool(9));
    lease(&mut book, a, 1, now);
    lease(&mut book, a, 2, now);
    ask(&mut book, b, 'b', now);
    ask(&mut book, a, 'a', now);
    let actions = book.release(a, 1, now);
    assert_eq!((actions.closes, actions.dials), (vec![1], vec![b]));
    assert_eq!(book.dialed(b, 3, now).grants, [('b', 3)]);
    // Now both have one; b waits first but not for long, so a's connection stays with a.
    ask(&mut book, b, 'c', now);
    assert_eq!(book.release(a, 2, now).grants, [('a', 2)]);
    ask(&mut book, a, 'd', now);
    let late = now + LIMITS.steal_after;
    assert_eq!(book.release(a, 2, late).closes, [2]);
}

#[test]
fn one_that_waits_for_its_own_pools_limit_holds_up_nobody_behind_it() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let (a, narrow, b) = (book.add_pool(9), book.add_pool(1), book.add_pool(9));
    lease(&mut book, a, 1, now);
    lease(&mut book, narrow, 2, now);
    ask(&mut book, narrow, 'n', now);
    ask(&mut book, b, 'b', now);
    ask(&mut book, a, 'a', now);
    let actions = book.release(a, 1, now);
    assert_eq!((actions.closes, actions.dials, actions.grants), (vec![1], vec![b], vec![]), "b comes before a");
    assert_eq!(
        book.release(narrow, 2, now).grants,
        [('n', 2)],
        "and a is not as badly off as to be given this one's place"
    );
}

#[test]
fn so_many_are_kept_idle_beside_those_in_use() {
    let (now, limits) = (Instant::now(), Limits { connections: 9, min_idle: 2, ..LIMITS });
    let mut book = TestBook::new(limits);
    let pool = book.add_pool(9);
    assert_eq!(book.tick(now, |_| false).dials, [], "it has not been used yet");
    lease(&mut book, pool, 1, now);
    lease(&mut book, pool, 2, now);
    for connection in [3, 4] {
        assert_eq!(book.tick(now, |_| false).dials, [pool]);
        book.dialed(pool, connection, now);
    }
    assert_eq!(book.tick(now, |_| false).dials, []);
    book.release(pool, 1, now);
    let late = now + LIMITS.idle_timeout;
    assert_eq!(book.tick(late, |_| false).closes, [3], "it is one too many, and the one unused for longest");
    assert_eq!(book.counts(pool), PoolCounts { idle: 2, leased: 1, ..PoolCounts::default() });
}

#[test]
fn what_is_kept_idle_heeds_each_limit() {
    let now = Instant::now();
    let mut book = TestBook::new(Limits { connections: 9, connecting: 1, min_idle: 3, ..LIMITS });
    let (narrow, other) = (book.add_pool(2), book.add_pool(9));
    for (pool, connection) in [(narrow, 1), (other, 2)] {
        lease(&mut book, pool, connection, now);
    }
    assert_eq!(book.tick(now, |_| false).dials, [narrow], "one is opened at a time");
    book.dialed(narrow, 3, now);
    assert_eq!(book.tick(now, |_| false).dials, [other], "the first one has as many as it may have");
}

#[test]
fn a_lowered_limit_closes_what_is_idle_and_then_what_comes_back() {
    let now = Instant::now();
    let mut book = TestBook::new(Limits { connections: 4, ..LIMITS });
    let (a, b) = (book.add_pool(9), book.add_pool(9));
    for (pool, connection) in [(a, 1), (a, 2), (b, 3), (b, 4)] {
        lease(&mut book, pool, connection, now);
    }
    book.release(a, 1, now);
    book.set_limits(Limits { connections: 2, ..LIMITS });
    assert_eq!(book.tick(now, |_| false).closes, [1]);
    ask(&mut book, b, 'b', now);
    let back = book.release(b, 3, now);
    assert_eq!((back.closes, back.grants, back.dials), (vec![3], vec![], vec![]), "three were open still");
    assert_eq!(book.release(b, 4, now).grants, [('b', 4)]);
    book.set_limit(a, 0);
    assert_eq!(book.release(a, 2, now).closes, [2], "nor may a pool keep what is above its own");
}

#[test]
fn a_failed_dial_is_told_to_those_nobody_else_can_serve() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let pool = book.add_pool(9);
    ask(&mut book, pool, 'a', now);
    ask(&mut book, pool, 'b', now);
    let (failed, _) = book.dial_failed(pool);
    assert!(failed.is_empty(), "another dial is in flight");
    assert_eq!(book.dial_failed(pool).0, ['a', 'b']);
    lease(&mut book, pool, 1, now);
    ask(&mut book, pool, 'c', now);
    assert!(book.dial_failed(pool).0.is_empty(), "a leased connection will come back");
    assert_eq!(book.release(pool, 1, now).grants, [('c', 1)]);
}

#[test]
fn a_connection_that_suits_is_preferred_and_age_closes_the_rest() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let pool = book.add_pool(9);
    lease(&mut book, pool, 1, now);
    lease(&mut book, pool, 2, now);
    book.release(pool, 1, now);
    book.release(pool, 2, now + Duration::from_secs(30));
    let Asked::Lease(got) = book.ask(pool, |c| *c == 1, || 'x', now) else { panic!() };
    assert_eq!(got, 1);
    book.release(pool, 1, now);
    assert_eq!(book.tick(now + Duration::from_secs(61), |_| false).closes, [1]);
    assert_eq!(book.tick(now + Duration::from_secs(61), |c| *c == 2).closes, [2]);
    assert_eq!(book.counts(pool), PoolCounts::default());
}

#[test]
fn a_raised_limit_reaches_a_pool_that_is_there() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let pool = book.add_pool(1);
    lease(&mut book, pool, 1, now);
    let Asked::Wait(_, actions) = ask(&mut book, pool, 'a', now) else { panic!() };
    assert!(actions.dials.is_empty());
    book.set_limit(pool, 2);
    assert_eq!(book.tick(now, |_| false).dials, [pool]);
}

#[test]
fn a_pool_goes_when_it_has_nothing_and_its_number_is_used_again() {
    let (now, mut book) = (Instant::now(), TestBook::new(LIMITS));
    let (a, b) = (book.add_pool(9), book.add_pool(9));
    lease(&mut book, a, 1, now);
    assert!(!book.remove_pool(a), "one is leased");
    book.release(a, 1, now);
    assert!(!book.remove_pool(a), "one is idle");
    book.clear();
    assert!(book.remove_pool(a));
    assert_eq!(book.add_pool(1), a);
    lease(&mut book, a, 2, now);
    lease(&mut book, b, 3, now);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Release(usize),
    Close(usize),
    Dialed(usize),
    Failed(usize),
    Tick(u64),
    /// What the node may have, and each pool.
    Limit(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize).prop_map(Step::Ask),
        3 => (0..8usize).prop_map(Step::Release),
        1 => (0..8usize).prop_map(Step::Close),
        3 => (0..8usize).prop_map(Step::Dialed),
        1 => (0..8usize).prop_map(Step::Failed),
        1 => (0..90u64).prop_map(Step::Tick),
        1 => (1..4usize, 1..3usize).prop_map(|(node, pool)| Step::Limit(node, pool)),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A node, its connections and its dials, as a shell would keep them.
struct World {
    book: Book<u32, u32>,
    leased: Vec<(PoolIndex, u32)>,
    dialling: Vec<PoolIndex>,
    waiting: Vec<u32>,
    next: u32,
}

impl World {
    /// Of the node and of each pool: what it has, and what it may have.
    fn totals(&self) -> Vec<(usize, usize)> {
        let pools = self.book.pools.iter().map(|entry| (entry.total(), entry.limit));
        pools.chain([(self.book.total, self.book.limits.connections)]).collect()
    }

    fn carry_out(&mut self, actions: Actions<u32, u32>, pool_of: &dyn Fn(u32) -> PoolIndex) {
        for (waiter, connection) in actions.grants {
            let at = self.waiting.iter().position(|w| *w == waiter).expect("only a waiter is served, once");
            let pool = pool_of(waiter);
            let earlier = self.waiting[..at].iter().find(|w| pool_of(**w) == pool);
            assert_eq!(earlier, None, "first come, first served within a pool");
            self.waiting.remove(at);
            self.leased.push((pool, connection));
        }
        self.dialling.extend(actions.dials);
    }
}

proptest! {
    /// Whatever happens, nothing grows above its limit, the order within a pool holds, and in the end everybody is served.
    #[test]
    fn the_books_balance(steps in steps()) {
        let mut now = Instant::now();
        let mut book = Book::new(Limits { min_idle: 1, ..LIMITS });
        let pools: Vec<_> = (0..3).map(|_| book.add_pool(2)).collect();
        let mut world = World { book, leased: vec![], dialling: vec![], waiting: vec![], next: 0 };
        // A waiter's or connection's number tells its pool.
        let pool_of = |n: u32| pools[n as usize % 3];
        for step in steps {
            let before = world.totals();
            apply(&mut world, &step, &mut now, &pool_of);
            for ((total, limit), (before, _)) in world.totals().into_iter().zip(before) {
                prop_assert!(total <= limit.max(before), "{step:?}");
            }
            prop_assert!(world.book.queue.len() <= LIMITS.waiting);
            prop_assert!(world.book.connecting <= LIMITS.connecting);
            prop_assert_eq!(world.book.connecting, world.dialling.len());
            prop_assert_eq!(world.book.queue.len(), world.waiting.len());
        }
        for _ in 0..50 {
            now += LIMITS.steal_after;
            apply(&mut world, &Step::Dialed(0), &mut now, &pool_of);
            apply(&mut world, &Step::Release(0), &mut now, &pool_of);
            apply(&mut world, &Step::Tick(0), &mut now, &pool_of);
        }
        prop_assert_eq!(&world.waiting, &Vec::<u32>::new());
        prop_assert!(world.totals().into_iter().all(|(total, limit)| total <= limit), "{:?}", world.totals());
    }
}

fn apply(world: &mut World, step: &Step, now: &mut Instant, pool_of: &dyn Fn(u32) -> PoolIndex) {
    let pick = |n: usize, of: usize| (of > 0).then(|| n % of);
    match *step {
        Step::Ask(pool) => {
            let waiter = world.next * 3 + u32::try_from(pool).unwrap();
            world.next += 1;
            match world.book.ask(pool_of(waiter), |_| true, || waiter, *now) {
                Asked::Lease(connection) => world.leased.push((pool_of(waiter), connection)),
                Asked::Wait(_, actions) => {
                    world.waiting.push(waiter);
                    world.carry_out(actions, pool_of);
                }
                Asked::Full => {}
            }
        }
        Step::Release(n) => {
            if let Some(at) = pick(n, world.leased.len()) {
                let (pool, connection) = world.leased.remove(at);
                let actions = world.book.release(pool, connection, *now);
                world.carry_out(actions, pool_of);
            }
        }
        Step::Close(n) => {
            if let Some(at) = pick(n, world.leased.len()) {
                let (pool, _) = world.leased.remove(at);
                let actions = world.book.closed(pool);
                world.carry_out(actions, pool_of);
            }
        }
        Step::Dialed(n) => {
            if let Some(at) = pick(n, world.dialling.len()) {
                let pool = world.dialling.remove(at);
                world.next += 1;
                let connection = world.next;
                let actions = world.book.dialed(pool, connection, *now);
                world.carry_out(actions, pool_of);
            }
        }
        Step::Failed(n) => {
            if let Some(at) = pick(n, world.dialling.len()) {
                let pool = world.dialling.remove(at);
                let (failed, actions) = world.book.dial_failed(pool);
                world.waiting.retain(|waiter| !failed.contains(waiter));
                world.carry_out(actions, pool_of);
            }
        }
        Step::Limit(connections, each) => {
            world.book.set_limits(Limits { connections, ..world.book.limits.clone() });
            (0..3).for_each(|pool| world.book.set_limit(pool_of(pool), each));
        }
        Step::Tick(seconds) => {
            *now += Duration::from_secs(seconds);
            let actions = world.book.tick(*now, |_| false);
            world.carry_out(actions, pool_of);
        }
    }
}
