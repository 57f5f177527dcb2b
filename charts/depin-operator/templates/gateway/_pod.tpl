{{/* The gateway's Pod, whatever makes it. */}}
{{- define "depin.gatewayPod" -}}
{{- $volume := .Values.gateway.persistence -}}
{{- $postgresql := .Values.ledger.postgresql -}}
metadata:
  labels:
    {{- include "depin.podLabels" (list . "gateway") | nindent 4 }}
  {{- with .Values.gateway.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "depin.serviceAccount" (list . "gateway") }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "depin.pullSecrets" . }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext: {{- include "depin.podSecurity" . | nindent 4 }}
  terminationGracePeriodSeconds: 60
  containers:
  - name: gateway
    image: {{ include "depin.image" (list . .Values.gateway.image) }}
    imagePullPolicy: {{ .Values.gateway.image.pullPolicy }}
    command: [/depin-gateway]
    args:
    - --listen={{ .Values.global.bindAddress }}:8443
    - --ledger-listen={{ .Values.global.bindAddress }}:8444
    - --tls-dir=/etc/depin/tls
    {{- if .Values.gateway.tls.existingSecret }}
    - --ca-dir=/etc/depin/ca
    {{- end }}
    {{- if $postgresql.enabled }}
    - --postgresql-url-file=/etc/depin/postgresql/url
    {{- if $postgresql.caSecret }}
    - --postgresql-ca=/etc/depin/postgresql-ca/ca.crt
    {{- end }}
    {{- if $postgresql.backups }}
    - --postgresql-backups
    {{- end }}
    {{- else }}
    - --data-dir=/var/lib/depin/ledger
    {{- with include "depin.backupArgs" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- include "depin.telemetryArgs" . | nindent 4 }}
    {{- with .Values.gateway.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    - {name: agents, containerPort: 8443}
    - {name: ledger, containerPort: 8444}
    - {name: admin, containerPort: 9100}
    # A ledger is read before anything else: half an hour is more than the largest takes.
    startupProbe:
      httpGet: {path: /healthz, port: admin}
      periodSeconds: 2
      failureThreshold: 900
    livenessProbe:
      httpGet: {path: /healthz, port: admin}
      periodSeconds: 10
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: admin}
      periodSeconds: 2
    resources: {{- toYaml .Values.gateway.resources | nindent 6 }}
    securityContext: {{- include "depin.containerSecurity" . | nindent 6 }}
    volumeMounts:
    - {name: tls, mountPath: /etc/depin/tls, readOnly: true}
    {{- if .Values.gateway.tls.existingSecret }}
    - {name: ca, mountPath: /etc/depin/ca, readOnly: true}
    {{- end }}
    {{- if $postgresql.enabled }}
    - {name: postgresql, mountPath: /etc/depin/postgresql, readOnly: true}
    {{- if $postgresql.caSecret }}
    - {name: postgresql-ca, mountPath: /etc/depin/postgresql-ca, readOnly: true}
    {{- end }}
    {{- else }}
    - {name: ledger, mountPath: /var/lib/depin}
    {{- with include "depin.backupMounts" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
  volumes:
  {{- include "depin.gatewayCertificateVolumes" . | nindent 2 }}
  {{- if $postgresql.enabled }}
  - name: postgresql
    secret:
      secretName: {{ required "ledger.postgresql.urlSecret: name the Secret with the database's URL" $postgresql.urlSecret }}
      defaultMode: 0440
      items: [{key: url, path: url}]
  {{- with $postgresql.caSecret }}
  - name: postgresql-ca
    secret:
      secretName: {{ . }}
      defaultMode: 0440
      items: [{key: ca.crt, path: ca.crt}]
  {{- end }}
  {{- else if not $volume.enabled }}
  - name: ledger
    emptyDir: {}
  {{- else if $volume.existingClaim }}
  - name: ledger
    persistentVolumeClaim: {claimName: {{ $volume.existingClaim }}}
  {{- end }}
  {{- if not $postgresql.enabled }}
  {{- with include "depin.backupVolumes" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with include "depin.placement" (list . "gateway" "center") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}
