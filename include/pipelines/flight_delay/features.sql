-- Every flight scheduled from $partition_start to the day before $partition_end, with what is known
-- of it at 05:00 in New York on its day: its schedule, the aircraft's record in the register, the
-- weather at its origin for its hour, and the on-time record of its carrier, origin, route and
-- number.
--
-- All windows move with the flight's own date and end the day before it, so that a query over
-- months gives for each flight what the query of its own day gives: training and serving share
-- this text. Local times are New York's: all three origins lie in that zone.

WITH flight AS (
    SELECT
        *,
        sched_dep_time // 100 * 60 + sched_dep_time % 100 AS departure_minute,
        sched_arr_time // 100 * 60 + sched_arr_time % 100 AS arrival_minute,
        -- A cancelled or diverted flight has no arrival delay: neither on time nor late.
        arr_delay >= 15 AS late
    FROM flights
    WHERE flight_date >= $partition_start - INTERVAL 28 DAYS AND flight_date < $partition_end
),

daily AS (
    SELECT
        flight_date, carrier, origin, dest, hour, flight,
        count(*) AS scheduled,
        count(arr_delay) AS arrived,
        count(*) FILTER (late) AS late,
        sum(arr_delay) AS delay_minutes
    FROM flight
    GROUP BY ALL
),

carrier_record AS (
    SELECT
        carrier, flight_date,
        sum(sum(late)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS late_share_28d,
        sum(sum(late)) OVER week_before
            / nullif(sum(sum(arrived)) OVER week_before, 0) AS late_share_7d,
        sum(sum(late)) OVER day_before
            / nullif(sum(sum(arrived)) OVER day_before, 0) AS late_share_1d
    FROM daily
    GROUP BY carrier, flight_date
    WINDOW
        month_before AS (PARTITION BY carrier ORDER BY flight_date
            RANGE BETWEEN INTERVAL 28 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING),
        week_before AS (PARTITION BY carrier ORDER BY flight_date
            RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING),
        day_before AS (PARTITION BY carrier ORDER BY flight_date
            RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING)
),

origin_record AS (
    SELECT
        origin, flight_date,
        sum(sum(late)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS late_share_28d,
        sum(sum(late)) OVER week_before
            / nullif(sum(sum(arrived)) OVER week_before, 0) AS late_share_7d,
        sum(sum(late)) OVER day_before
            / nullif(sum(sum(arrived)) OVER day_before, 0) AS late_share_1d
    FROM daily
    GROUP BY origin, flight_date
    WINDOW
        month_before AS (PARTITION BY origin ORDER BY flight_date
            RANGE BETWEEN INTERVAL 28 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING),
        week_before AS (PARTITION BY origin ORDER BY flight_date
            RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING),
        day_before AS (PARTITION BY origin ORDER BY flight_date
            RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING)
),

route_record AS (
    SELECT
        origin, dest, flight_date,
        sum(sum(late)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS late_share_28d,
        sum(sum(delay_minutes)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS mean_delay_28d,
        sum(sum(arrived)) OVER month_before AS arrivals_28d,
        1 - sum(sum(arrived)) OVER month_before
            / nullif(sum(sum(scheduled)) OVER month_before, 0) AS cancelled_share_28d
    FROM daily
    GROUP BY origin, dest, flight_date
    WINDOW month_before AS (PARTITION BY origin, dest ORDER BY flight_date
        RANGE BETWEEN INTERVAL 28 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING)
),

hour_record AS (
    SELECT
        origin, hour, flight_date,
        sum(scheduled) AS departures,
        sum(sum(late)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS late_share_28d
    FROM daily
    GROUP BY origin, hour, flight_date
    WINDOW month_before AS (PARTITION BY origin, hour ORDER BY flight_date
        RANGE BETWEEN INTERVAL 28 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING)
),

number_record AS (
    SELECT
        carrier, flight, origin, dest, flight_date,
        sum(sum(late)) OVER month_before
            / nullif(sum(sum(arrived)) OVER month_before, 0) AS late_share_28d,
        sum(sum(arrived)) OVER month_before AS arrivals_28d
    FROM daily
    GROUP BY carrier, flight, origin, dest, flight_date
    WINDOW month_before AS (PARTITION BY carrier, flight, origin, dest ORDER BY flight_date
        RANGE BETWEEN INTERVAL 28 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING)
),

-- The weather at the origin for the scheduled hour. At 05:00 that is a forecast. The public archive
-- keeps no forecasts, so the observation stands in for it: a forecast without error, and a model
-- that looks a little better than it would be. A warehouse that keeps forecasts joins the newest
-- one issued before the run's time, here and in training alike.
--
-- Where the hour is missing it is the newest hour before, however old: the gate judges its age.
-- Hours are UTC's, which winter time does not repeat.
weather_of_hour AS (
    SELECT scheduled.origin, scheduled.time_hour, weather.* EXCLUDE (origin, time_hour)
    FROM (SELECT DISTINCT origin, time_hour FROM flight) AS scheduled
    ASOF JOIN weather
        ON weather.origin = scheduled.origin AND weather.time_hour <= scheduled.time_hour
)

SELECT
    flight.scheduled_at,
    flight.carrier,
    flight.flight,
    flight.origin,

    flight.dest,
    flight.tailnum,
    weather_of_hour.observed_at AS weather_observed_at,

    CAST(flight.departure_minute AS BIGINT) AS departure_minute,
    CAST(flight.arrival_minute AS BIGINT) AS arrival_minute,
    CAST(isodow(flight.flight_date) AS BIGINT) AS weekday,
    CAST(flight.distance AS BIGINT) AS distance_miles,
    CAST(hour_record.departures AS BIGINT) AS origin_departures_in_hour,

    CAST(carrier_record.late_share_1d AS DOUBLE) AS carrier_late_share_1d,
    CAST(carrier_record.late_share_7d AS DOUBLE) AS carrier_late_share_7d,
    CAST(carrier_record.late_share_28d AS DOUBLE) AS carrier_late_share_28d,
    CAST(origin_record.late_share_1d AS DOUBLE) AS origin_late_share_1d,
    CAST(origin_record.late_share_7d AS DOUBLE) AS origin_late_share_7d,
    CAST(origin_record.late_share_28d AS DOUBLE) AS origin_late_share_28d,
    CAST(hour_record.late_share_28d AS DOUBLE) AS hour_late_share_28d,
    CAST(route_record.late_share_28d AS DOUBLE) AS route_late_share_28d,
    CAST(route_record.mean_delay_28d AS DOUBLE) AS route_mean_delay_minutes_28d,
    CAST(route_record.cancelled_share_28d AS DOUBLE) AS route_cancelled_share_28d,
    CAST(coalesce(route_record.arrivals_28d, 0) AS BIGINT) AS route_arrivals_28d,
    CAST(number_record.late_share_28d AS DOUBLE) AS flight_late_share_28d,
    CAST(coalesce(number_record.arrivals_28d, 0) AS BIGINT) AS flight_arrivals_28d,

    weather_of_hour.temp AS temperature_f,
    weather_of_hour.dewp AS dew_point_f,
    weather_of_hour.humid AS humidity_percent,
    weather_of_hour.wind_dir AS wind_direction_degrees,
    weather_of_hour.wind_speed AS wind_speed_mph,
    weather_of_hour.pressure AS pressure_mbar,
    weather_of_hour.visib AS visibility_miles,
    weather_of_hour.wind_gust AS wind_gust_mph,
    weather_of_hour.precip AS precipitation_in,

    CAST(flight.year - planes.year AS DOUBLE) AS plane_age_years,
    CAST(planes.seats AS DOUBLE) AS plane_seats,
    CAST(planes.engines AS DOUBLE) AS plane_engines,
    coalesce(planes.engine, 'unknown') AS plane_engine,
    CASE
        WHEN planes.manufacturer IS NULL THEN 'unknown'
        WHEN planes.manufacturer LIKE 'AIRBUS%' THEN 'airbus'
        WHEN planes.manufacturer LIKE 'MCDONNELL DOUGLAS%' THEN 'mcdonnell douglas'
        WHEN planes.manufacturer LIKE 'BOMBARDIER%' OR planes.manufacturer LIKE 'CANADAIR%'
            THEN 'bombardier'
        WHEN planes.manufacturer IN ('BOEING', 'EMBRAER') THEN lower(planes.manufacturer)
        ELSE 'other'
    END AS plane_manufacturer
FROM flight
LEFT JOIN carrier_record USING (carrier, flight_date)
LEFT JOIN origin_record USING (origin, flight_date)
LEFT JOIN route_record USING (origin, dest, flight_date)
LEFT JOIN hour_record USING (origin, hour, flight_date)
LEFT JOIN number_record USING (carrier, flight, origin, dest, flight_date)
LEFT JOIN weather_of_hour USING (origin, time_hour)
LEFT JOIN planes USING (tailnum)
WHERE flight.flight_date >= $partition_start
