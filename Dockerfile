# Astro Runtime 3.3-7: Airflow 3.3.1 with Astronomer's own fixes, on Debian 12. Its `-base` image
# leaves the installation to this file: the other one would install the lock's Airflow over its own.
FROM astrocrpublic.azurecr.io/runtime:3.3-7-python-3.11-base

USER root
COPY packages.txt requirements.txt ./

# OpenMP for LightGBM, Java for Spark.
RUN apt-get update \
    && xargs --arg-file packages.txt apt-get install --yes --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*

# Everything in the lock but Airflow. Compiled once, here: uncompiled, Great Expectations alone takes
# 25 s to import.
RUN grep --invert-match --extended-regexp '^apache-airflow(-core|-task-sdk)?==' requirements.txt \
        > /tmp/requirements.txt \
    && PYTHONDONTWRITEBYTECODE= pip install --no-cache-dir --compile -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY --chown=astro:0 . .
USER astro
