-- Every customer who bought by the end of $as_of, with the shape of the purchases up to then.
-- A day with several orders is one purchase day; intervals are the days between purchase days.

WITH purchase_day AS (
    SELECT
        customer_id,
        purchased_on,
        count(*) AS orders,
        sum(cds) AS cds,
        sum(amount) AS amount,
        max(amount) AS largest_order,
        date_diff('day', lag(purchased_on) OVER previous, purchased_on) AS interval_days
    FROM purchases
    WHERE purchased_on <= $as_of
    GROUP BY customer_id, purchased_on
    WINDOW previous AS (PARTITION BY customer_id ORDER BY purchased_on)
),

customer AS (
    SELECT
        customer_id,
        min(purchased_on) AS first_on,
        max(purchased_on) AS last_on,
        count(*) AS purchase_days,
        sum(orders) AS orders,
        sum(cds) AS cds,
        sum(amount) AS amount,
        max(largest_order) AS largest_order,
        arg_max(amount, purchased_on) AS last_amount,
        avg(interval_days) AS mean_interval_days,
        -- From whole sums, which are the same in any order of the rows; stddev_samp is not.
        sqrt((sum(interval_days * interval_days) - sum(interval_days) ** 2 / count(interval_days))
            / nullif(count(interval_days) - 1, 0)) AS sd_interval_days,
        count(*) FILTER (recent) AS purchase_days_90d,
        count(*) FILTER (earlier) AS purchase_days_prior_90d,
        sum(amount) FILTER (recent) AS amount_90d,
        sum(amount) FILTER (earlier) AS amount_prior_90d
    FROM (
        SELECT
            *,
            purchased_on > $as_of - INTERVAL 90 DAYS AS recent,
            purchased_on > $as_of - INTERVAL 180 DAYS AND NOT recent AS earlier
        FROM purchase_day
    )
    GROUP BY customer_id
)

SELECT
    customer_id,
    CAST(last_on AS TIMESTAMP) AS last_purchase_at,

    date_diff('day', last_on, $as_of) AS recency_days,
    date_diff('day', first_on, $as_of) AS tenure_days,
    CAST(purchase_days AS BIGINT) AS purchase_days,
    CAST(orders AS BIGINT) AS orders,
    CAST(cds AS BIGINT) AS cds,
    CAST(amount AS DOUBLE) AS amount_dollars,
    CAST(amount AS DOUBLE) / orders AS mean_order_dollars,
    CAST(largest_order AS DOUBLE) AS largest_order_dollars,
    CAST(last_amount AS DOUBLE) AS last_amount_dollars,
    CAST(mean_interval_days AS DOUBLE) AS mean_interval_days,
    CAST(sd_interval_days AS DOUBLE) AS sd_interval_days,
    -- How many of the customer's own usual intervals have passed since the last purchase.
    date_diff('day', last_on, $as_of) / mean_interval_days AS intervals_overdue,
    CAST(purchase_days_90d AS BIGINT) AS purchase_days_90d,
    CAST(purchase_days_prior_90d AS BIGINT) AS purchase_days_prior_90d,
    CAST(coalesce(amount_90d, 0) AS DOUBLE) AS amount_dollars_90d,
    CAST(coalesce(amount_prior_90d, 0) AS DOUBLE) AS amount_dollars_prior_90d
FROM customer
